"""`pairmill promote`: moves an alias by hand, forward or back, and prints who moved it, when and why."""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dataops.errors import ConfigError
from flows.commands.options import Json, Name
from flows.commands.output import console, new_table, print_json
from plugins.versions.models import parse_model
from tasks.register.config import describe_gate
from tasks.register.gate import ONLY_CANDIDATE, AliasMove, move_alias, parse_trail
from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient


def promote(
    model: Name,
    *,
    alias: Annotated[str, Parameter(help="The alias to move.")] = "champion",
    reason: Annotated[
        str,
        Parameter(help="Why; required to move the alias, and recorded in the audit trail.", show_default=False),
    ] = "",
    json: Json = False,
) -> int:
    """Move an alias to a version of a model, also back to an earlier one. Without a version, print the audit trail.

    Args:
        model: models:/name/3 or name/3; only the name for the audit trail.
    """
    name, version = parse_model(model)
    if version is None:
        return _show_trail(name, as_json=json)
    move, gate = give_alias(name, version, alias, reason)
    if json:
        print_json({"model": name, "move": asdict(move) if move else None, "gate": gate})
        return 0
    out = console()
    if move is None:
        out.write(f"{name} version {version} already has the alias {alias}")
        return 0
    before = f"from version {move.before} " if move.before else ""
    verdict = describe_gate(gate.removesuffix(ONLY_CANDIDATE))
    out.write(f"{name}: alias {alias} moved {before}to version {version} ({verdict})")
    if move.before:
        undo = f"pairmill promote {name}/{move.before} --alias {alias} --reason ..."
        out.message(f"to move it back: {undo}")
    return 0


def _show_trail(name: str, *, as_json: bool) -> int:
    moves = read_trail(name)
    if as_json:
        print_json({"model": name, "moves": moves})
        return 0
    table = new_table(f"Aliases of {name}", "time", "alias", "from", "to", "by", "why")
    for move in moves:
        cells = (str(move.get(field) or "-") for field in ("alias", "before", "after", "by", "why"))
        table.add_row(move["time"][:15], *cells)
    console().print(table)
    return 0


def give_alias(name: str, version: str, alias: str, why: str) -> tuple[AliasMove | None, str]:
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
    return parse_trail(tags)
