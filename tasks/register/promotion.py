"""Moves an alias from one version of a model to another, and keeps an audit trail of all such moves in MLflow.

A roll-back is the promotion of an earlier version. The trail is tags of the registered model, `audit.<time>`, each a JSON
object; nothing here deletes one.
"""

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dataops.errors import ConfigError
from tasks.register.gate import current
from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

AUDIT = "audit."
"""How the tags of a registered model begin that are its audit trail."""


@dataclass(frozen=True)
class AliasMove:
    """An alias went from one version to another; `before` is None where none had it."""

    alias: str
    before: str | None
    after: str
    by: str
    why: str


def move_alias(client: "MlflowClient", name: str, alias: str, after: str, by: str, why: str) -> AliasMove | None:
    """Set the alias; None where the version has it already.

    The move is written down first: a kill leaves a note of what was to be, never a move without a note.
    """
    holder = current(client, name, alias)
    before = None if holder is None else str(holder.version)
    if before == after:
        return None
    move = AliasMove(alias, before, after, by, why)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(2)}"
    client.set_registered_model_tag(name, f"{AUDIT}{stamp}", json.dumps(asdict(move))[: tracking.TAG_LENGTH])
    client.set_registered_model_alias(name, alias, after)
    return move


def promote(name: str, version: str, alias: str, why: str) -> tuple[AliasMove | None, str]:
    """Give a version the alias, by hand; the move and what the gate had said of the version.

    Raises: ConfigError when there is no such version or no reason is given.
    """
    if not why.strip():
        raise ConfigError("say why with --reason: it is what the audit trail is for")
    client = tracking.connect()
    with tracking.mlflow_errors():
        gate = client.get_model_version(name, version).tags.get("gate", "unknown")
        who = os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("USER") or "somebody"
        return move_alias(client, name, alias, version, f"{who} on {socket.gethostname()}", why), gate


def read_trail(name: str) -> list[dict[str, Any]]:
    """All moves of a model's aliases, oldest first: `time` and the fields of Move.

    Raises: ConfigError when there is no such model.
    """
    client = tracking.connect()
    with tracking.mlflow_errors():
        tags: Mapping[str, str] = client.get_registered_model(name).tags
    moves: list[dict[str, Any]] = []
    for tag in sorted(tags):
        if tag.startswith(AUDIT):
            try:
                moves.append({"time": tag.removeprefix(AUDIT).partition("-")[0], **json.loads(tags[tag])})
            except (ValueError, TypeError):
                moves.append({"time": tag.removeprefix(AUDIT), "why": tags[tag]})
    return moves
