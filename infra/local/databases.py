"""Prepare the SQLite database of a local server for the installed version of Prefect or MLflow, which may be newer.

Beside the database lies a file with the version that last opened it. Another version gets a copy of
the database as it was, and migrates it; the two newest copies are kept. A server that our commands
did not start is left alone.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from infra.local.supervisor import MARK

logger = logging.getLogger(__name__)

KEPT = 2
"""Number of copies of a database that are kept."""


def prepare_database(name: str, migrate: Callable[[], None]) -> None:
    """Back the database `NAME.db` in the current folder up, and migrate it, if another version has written it.

    Args:
        name: prefect or mlflow.
        migrate: migrates the database; Prefect's server does so itself.

    Raises: SystemExit with the remedy if a newer version has written it, since an older one cannot read it.
    """
    if MARK not in os.environ:
        return
    path, installed = Path(f"{name}.db"), version(name)
    marker = path.with_suffix(".version")
    before = marker.read_text("utf-8").strip() if marker.exists() else "earlier"
    if path.exists() and before != installed:
        if _numbers(before) > _numbers(installed):
            raise SystemExit(
                f"{path.absolute()} was written by {name} {before}, and {installed} cannot read it: install"
                f" {name}=={before} again, or put a copy of before in its place ({_copies(path)})"
            )
        copy = path.with_name(f"{name}-{before}.db")
        if not copy.exists():  # else an earlier start was killed while it migrated
            _copy(path, copy)
        logger.warning("%s: %s migrates what %s wrote; a copy is in %s", path, installed, before, copy.name)
        migrate()
        for old in sorted(path.parent.glob(f"{name}-*.db"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
            old.unlink()
    marker.write_text(installed, "utf-8")


def _copy(path: Path, copy: Path) -> None:
    """Copy a database with what is still in its log; completely or not at all."""
    part = copy.with_suffix(".part")
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
        source.backup(target)
    part.chmod(0o600)
    part.replace(copy)


def _copies(path: Path) -> str:
    return ", ".join(sorted(one.name for one in path.parent.glob(f"{path.stem}-*.db"))) or "there is none"


def _numbers(release: str) -> tuple[int, ...]:
    """Return the numbers of a version, without those of a pre-release; none for an unknown one."""
    match = re.match(r"\d+(?:\.\d+)*", release)
    return tuple(map(int, match[0].split("."))) if match else ()
