"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError
from dataops.store import FolderStore, open_store


def _check_name(_type: object, name: str | None) -> None:
    """Raise a ConfigError for an empty name, as of a variable that a script has not set, or one that no file can have."""
    problem = "" if name is None or name.strip() else "is empty"
    try:
        Path(name or "").expanduser().stat()  # `exists` hides all errors from Python 3.14 on
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError) as error:
        problem = f"cannot be read ({error!s:.100})"
    if problem:
        raise ConfigError(f"the name of what to work on {problem}; give a run id, a key or a name, or leave it out")


def _check_store(_type: object, uri: str | None) -> None:
    """Raise a ConfigError if the named store is a folder that does not exist."""
    store = None if uri is None else open_store(uri)
    if isinstance(store, FolderStore) and not store.root.is_dir():
        raise ConfigError(f"--store {uri}: there is no store, since {store.uri} is not a folder; name a store of a run")


Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value on stdout and nothing else.")]
StoreUri = Annotated[
    str | None,
    Parameter(name="--store", help="Another store to search: a folder, or s3://bucket/prefix.", validator=_check_store),
]
Name = Annotated[str, Parameter(validator=_check_name)]
"""What a command works on, such as a run id; it is not empty."""
OptionalName = Annotated[str | None, Parameter(validator=_check_name)]
Settings = Annotated[
    tuple[str, ...], Parameter(name="--set", help="Override a config key: --set train.epochs=3. May be repeated.")
]
Yes = Annotated[bool, Parameter(name="--yes", negative="")]
