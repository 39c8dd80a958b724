"""Keep since which version of pairmill each config key exists, in config_since.json."""

import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel

from dataops.config import tables_of
from flows.config import RunConfig

RECORD = Path(__file__).with_suffix(".json")


def since(path: str) -> str:
    """Return the first version that has a key.

    Raises: KeyError for a new key that `record_new_keys` has not seen.
    """
    return _versions()[path.lstrip(".")]


@cache
def _versions() -> dict[str, str]:
    return {key: number for number, keys in json.loads(RECORD.read_text(encoding="utf-8")).items() for key in keys}


def record_new_keys() -> None:
    """Record keys that are not recorded yet as those of this version, and remove those that no longer exist."""
    known = _versions() if RECORD.exists() else {}
    versions: dict[str, list[str]] = {}
    for key in sorted({*_list_keys(RunConfig, "")}):
        versions.setdefault(known.get(key, version("pairmill")), []).append(key)
    RECORD.write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")
    _versions.cache_clear()


def _list_keys(table: type[BaseModel], path: str) -> Iterator[str]:
    """Yield the path of each key; those of the kinds of source are below `source`."""
    for name, field in table.model_fields.items():
        key = f"{path}{field.alias or name}"
        yield key
        for inner in tables_of(field.annotation):
            yield from _list_keys(inner, f"{key}.")
