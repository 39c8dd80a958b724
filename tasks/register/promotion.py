"""Move an alias from one version of a model to another, and keep an audit trail of these moves in MLflow.

A rollback is the promotion of an earlier version. The trail is in tags of the registered model, `audit.<time>`, each a JSON
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
from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

AUDIT = "audit."
"""Prefix of the tags that are the audit trail."""


@dataclass(frozen=True)
class AliasMove:
    """A move of an alias from one version to another; `before` is None if no version had it."""

    alias: str
    before: str | None
    after: str
    by: str
    why: str


def move_alias(client: "MlflowClient", name: str, alias: str, after: str, by: str, why: str) -> AliasMove | None:
    """Set the alias and return the move; None if the version has the alias already.

    The tag is written first: a killed call may leave a tag without a move, but never a move without a tag.
    """
    holder = tracking.find_aliased_version(client, name, alias)
    before = None if holder is None else str(holder.version)
    if before == after:
        return None
    move = AliasMove(alias, before, after, by, why)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(2)}"
    client.set_registered_model_tag(name, f"{AUDIT}{stamp}", json.dumps(asdict(move))[: tracking.TAG_LENGTH])
    client.set_registered_model_alias(name, alias, after)
    return move


def promote(name: str, version: str, alias: str, why: str) -> tuple[AliasMove | None, str]:
    """Give a version the alias at a user's request; return the move and the gate's verdict on the version.

    Raises: ConfigError if there is no such version or no reason is given.
    """
    if not why.strip():
        raise ConfigError("no reason is given; pass --reason, for the audit trail")
    client = tracking.connect()
    with tracking.mlflow_errors():
        gate = client.get_model_version(name, version).tags.get("gate", "unknown")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("USER") or "somebody"
        return move_alias(client, name, alias, version, f"{user} on {socket.gethostname()}", why), gate


def read_trail(name: str) -> list[dict[str, Any]]:
    """Return all moves of a model's aliases, oldest first: `time` and the fields of AliasMove.

    Raises: ConfigError if there is no such model.
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
