"""The stores in which flows work on this machine: whoever can start a flow run or emit an event names a store.

A flow runs the config of a record in its store, and writes into the store what it reads. So a store that nobody named on
this machine is refused before it is opened. Known are the stores of runs that this machine began or continued, of configs
that were deployed from it, the home's own store, and those under a URI in the environment variable PAIRMILL_STORES.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from dataops.errors import ConfigError
from flows.records import list_pointers

VARIABLE = "PAIRMILL_STORES"
"""Environment variable: URIs of stores, or of what they are under, separated by commas."""


def check_store(uri: str, home: Path) -> None:
    """Raise a ConfigError if the store is unknown on this machine."""
    wanted = _canonical(uri)
    known = [str(home / "store"), *list_pointers(home / "runs"), *list_pointers(home / "deployed")]
    if wanted in map(_canonical, known):
        return
    under = [_canonical(base) for base in os.environ.get(VARIABLE, "").split(",") if base.strip()]
    if any(f"{wanted}/".startswith(f"{base.rstrip('/')}/") for base in under):
        return
    raise ConfigError(
        f"the store {uri!r} is unknown on this machine, so no flow works in it; if you trust who can write to it, call"
        f" `pairmill deploy` with its config on this machine, or set {VARIABLE} to its URI where the worker is started"
    )


def _canonical(uri: str) -> str:
    """Return one spelling of a URI: of a folder, its absolute path without links."""
    parts = urlsplit(uri.strip())
    if parts.scheme == "s3":
        return f"s3://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
    return os.path.realpath(Path(parts.path if parts.scheme == "file" else uri.strip()).expanduser())
