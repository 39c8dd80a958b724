"""`pairmill doctor`: checks this installation, and prints the remedy for each problem."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.commands.options import Json
from flows.commands.output import console, print_json
from plugins.doctor.check import Check
from plugins.doctor.diagnose import diagnose


def doctor(
    config: Path | None = None,
    *,
    store: Annotated[str | None, Parameter(help="The store to check; default: the store in the home.")] = None,
    json: Json = False,
) -> int:
    """Check this installation and print the remedy for each problem. Exits with 2 if a check fails.

    Args:
        config: A config file, to check also what it needs (Ray).
    """
    return show_checks(diagnose(store, config), as_json=json)


def show_checks(checks: Sequence[Check], *, as_json: bool) -> int:
    """Print the checks; return 2 if one is an error."""
    failed = any(not check.ok and check.severity == "error" for check in checks)
    if as_json:
        print_json([asdict(check) for check in checks])
        return 2 if failed else 0
    out = console()
    for check in checks:
        mark = "ok" if check.ok else check.severity
        out.message(f"{mark:>8}  {check.name}: {check.detail}")
        if not check.ok and check.remedy:
            out.message(f"{'':>8}  remedy: {check.remedy}")
    return 2 if failed else 0
