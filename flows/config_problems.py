"""Find the problems of a config whose tables may be wrong: of the files that they name, of several sources, of signers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tasks.extract.config import SourceConfig, name_source_path, name_tables
from tasks.web import signing


def name_sources(lines: Iterable[str], tables: object) -> list[str]:
    """Return problems with the names of the sources in their paths.

    Args:
        tables: `source` as it is in the config.
    """
    return [name_source_path(line, tables) for line in lines]


def find_source_problems(tables: Sequence[object], folder: Path | None) -> list[str]:
    """Return the problems of the files that several sources name, one of which may not be valid."""
    found: list[str] = []
    for name, values in zip(name_tables(tables), tables, strict=True):
        table, wrong = validate_rest(TypeAdapter(SourceConfig), values, folder)
        lines = table.problems() if table is not None else []
        found += [f"{name}.{line}" for line in lines if line.partition(":")[0].partition(".")[0] not in wrong]
    return found


def find_signer_problems(tables: Mapping[str, Any], read_download: Callable[[], Any]) -> list[str]:
    """Return why a crawl cannot sign as `[download]` says, if no download reports it.

    Args:
        tables: the tables that were checked, by the names of their fields.
        read_download: returns the table `[download]`, or None if it is not valid.
    """
    source = tables.get("source")
    if source is None or "download" in tables or (download := read_download()) is None:
        return []
    is_used = source.signing_as(download) != source
    return [f"download.{line}" for line in signing.find_signer_problems(download)] if is_used else []


def validate_rest(adapter: TypeAdapter[Any], values: object, folder: Path | None) -> tuple[Any, set[str]]:
    """Return a table without its wrong keys, and these keys; None if it is not valid without them either.

    Args:
        folder: that of the config; None for a run record.
    """
    wrong: set[str] = set()
    for _ in range(2):
        try:
            return adapter.validate_python(values, context={"folder": folder}), wrong
        except ValidationError as error:
            if not isinstance(values, Mapping):
                break
            wrong |= {str(step) for detail in error.errors() for step in detail["loc"] if step in values}
            values = {name: value for name, value in values.items() if name not in wrong}
    return None, wrong
