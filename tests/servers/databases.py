"""New databases of Prefect and MLflow, kept in the user's cache: to make them takes their servers 5 s of CPU time."""

import os
import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from infra.local import services


def put_databases(home):
    """Put the databases of new servers into a home, the current one, where they are kept."""
    services.make_home()
    for name in services.CLIENT_VARIABLE:
        put_database(name, home / "services" / name)


def put_database(name, folder):
    """Put the database of a new server into its folder, where it is kept."""
    if _kept(name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(_kept(name), folder / f"{name}.db")
        (folder / f"{name}.version").write_text(version(name))


def keep_databases(home):
    """Keep the databases of servers that have just made them."""
    for name in services.CLIENT_VARIABLE:
        if not _kept(name).exists():
            _kept(name).parent.mkdir(parents=True, exist_ok=True)
            part = _kept(name).with_suffix(f".{os.getpid()}")
            own = home / "services" / name / f"{name}.db"
            with closing(sqlite3.connect(own)) as source, closing(sqlite3.connect(part)) as copy:
                source.backup(copy)
            part.replace(_kept(name))


def _kept(name):
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pairmill-tests" / f"{name}-{version(name)}.db"
