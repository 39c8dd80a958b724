"""Move an alias from one version of a model to another, and keep an audit trail of these moves in MLflow.

A rollback is the promotion of an earlier version. The trail is in tags of the registered model, `audit.<time>`, each one
sentence; nothing here deletes one. The model's description shows the newest moves.
"""

import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dataops.errors import ConfigError
from dataops.escaping import escape_markdown
from tasks.register.gate import ONLY_CANDIDATE
from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

AUDIT = "audit."
"""Prefix of the tags that are the audit trail."""
MOVE = re.compile(r"(?P<alias>\S+): (?P<before>none|\d+) to (?P<after>\d+), by (?P<by>.*?): (?P<why>.*)", re.DOTALL)
SHOWN_MOVES = 5
"""Number of moves in the description of a registered model."""
HEADING = "Newest moves of its aliases"
"""Begins the part of a description that each move replaces; the text before it is the user's."""


@dataclass(frozen=True)
class AliasMove:
    """A move of an alias from one version to another; `before` is None if no version had it."""

    alias: str
    before: str | None
    after: str
    by: str
    why: str

    def __str__(self) -> str:
        return f"{self.alias}: {self.before or 'none'} to {self.after}, by {self.by}: {self.why}"


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
    client.set_registered_model_tag(name, f"{AUDIT}{stamp}", str(move)[: tracking.TAG_LENGTH])
    client.set_registered_model_alias(name, alias, after)
    describe_model(client, name)
    return move


def describe_model(client: "MlflowClient", name: str) -> None:
    """Write the newest moves of its aliases into a registered model's description, unless a user replaced all of it."""
    model = client.get_registered_model(name)
    shown = model.description or ""
    if shown and HEADING not in shown:
        return
    intro = shown.partition(HEADING)[0].strip() or (
        "CLIP models made by pairmill. Each version's page has its results, data, config and code. "
        f"The whole trail: pairmill promote {name}"
    )
    moves = [f"- {_format_time(move['time'])}, {escape_markdown(_describe(move))}" for move in _parse_trail(model.tags)]
    text = f"{intro}\n\n{HEADING}:\n\n" + "\n".join(moves[: -SHOWN_MOVES - 1 : -1])
    if text != shown:
        client.update_registered_model(name, text)


def _format_time(time: str) -> str:
    """Return the time of a move to the minute, in UTC."""
    parsed = re.match(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)", time)
    return "{}-{}-{} {}:{} UTC".format(*parsed.groups()) if parsed else time


def _describe(move: Mapping[str, Any]) -> str:
    return (
        str(AliasMove(**{f: move[f] for f in ("alias", "before", "after", "by", "why")}))
        if "by" in move
        else move["why"]
    )


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
        move = move_alias(client, name, alias, version, f"{user} on {socket.gethostname()}", why)
        _correct_description(client, name, version)
        return move, gate


def _correct_description(client: "MlflowClient", name: str, version: str) -> None:
    """Remove from a version's description that it is only a candidate; the gate's tag keeps the verdict as it was."""
    shown = client.get_model_version(name, version).description or ""
    if ONLY_CANDIDATE in shown:
        client.update_model_version(name, version, shown.replace(ONLY_CANDIDATE, ""))


def read_trail(name: str) -> list[dict[str, Any]]:
    """Return all moves of a model's aliases, oldest first: `time` and the fields of AliasMove.

    Raises: ConfigError if there is no such model.
    """
    client = tracking.connect()
    with tracking.mlflow_errors():
        tags: Mapping[str, str] = client.get_registered_model(name).tags
    return _parse_trail(tags)


def _parse_trail(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the moves in the tags of a model, oldest first; a tag that is no move has only `time` and `why`."""
    moves: list[dict[str, Any]] = []
    for tag in sorted(tag for tag in tags if tag.startswith(AUDIT)):
        time, text = tag.removeprefix(AUDIT).partition("-")[0], tags[tag]
        if found := MOVE.fullmatch(text):
            before = None if found["before"] == "none" else found["before"]
            moves.append({"time": time, **found.groupdict(), "before": before})
        else:
            moves.append({"time": time, "why": text})
    return moves
