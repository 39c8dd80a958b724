"""Print the keys of a config, and the JSON Schema of all configs: `config show`, `config schema`."""

import json as json_
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel

from dataops.config import tables_of
from dataops.errors import ConfigError, writing
from dataops.toml_problems import format_problems
from dataops.toml_text import format_key, format_value
from flows.commands.options import Json, Settings
from flows.commands.output import console, print_json
from flows.config import RunConfig, folder_of, read_config, secret_problems, validate_values
from plugins.init.schema import config_schema
from tasks.extract.config import Sources


def show(path: Path, /, *, set_: Settings = (), json: Json = False) -> int:
    """Print a config with all its keys as TOML; a key that the file does not set is marked as its default.

    Args:
        path: TOML file. The files that it names may be missing.
    """
    config, tables = resolve_config(path, set_)
    if json:
        keys = [{"key": key.path, "value": key.value, "origin": key.origin} for table in tables for key in table.keys]
        print_json({"path": str(path), "config": config.as_dict(), "keys": keys})
        return 0
    shown = console()
    for table in tables:
        lines = [("", ""), (table.header, "bold")] if table.header else []
        lines += [
            (line, "dim" if key.is_default or key.value is None else "")
            for key in table.keys
            for line in format_line(key).split("\n")
        ]
        for line, style in lines:
            shown.write(line, style)
    return 0


def schema(*, out: Annotated[Path | None, Parameter(help="Write it to this file instead.")] = None) -> int:
    """Print the JSON Schema of configs, for editors.

    The first line of a config names its schema: `#:schema ./config.schema.json` (taplo, Even Better TOML).
    """
    written = json_.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        sys.stdout.write(written)
        return 0
    with writing(out):
        out.write_text(written, encoding="utf-8")
    return 0


DEFAULT = "default"
MAX_LINE = 100
"""Columns from which an array is written on several lines."""


@dataclass(frozen=True)
class ResolvedKey:
    """One key of a config."""

    path: str
    value: Any
    """As a JSON value; None if it is not set and has no default."""
    origin: str
    """`default`, `--set`, or the line of the file, such as `line 12`."""

    @property
    def is_default(self) -> bool:
        """Whether neither the file nor a setting has the key."""
        return self.origin == DEFAULT


@dataclass(frozen=True)
class ResolvedTable:
    """A table of a config, with the keys that are no tables."""

    path: str
    header: str
    """Its header in TOML; empty for the top level."""
    keys: Sequence[ResolvedKey]


def resolve_config(path: Path, settings: Sequence[str]) -> tuple[RunConfig, list[ResolvedTable]]:
    """Return a config and its tables, in the order of the documentation. Files that it names may be missing.

    Raises: ConfigError that lists all wrong keys and values.
    """
    values, find_origins = read_config(path, settings)
    problems = secret_problems(values)
    config = None
    if not problems:
        config, problems = validate_values(values, folder_of(path))
    origins = find_origins()
    if config is None:
        raise ConfigError(format_problems(str(path), problems, origins))
    return config, list(_walk(config, origins, "", ""))


def _walk(table: BaseModel, origins: Mapping[str, str], path: str, header: str) -> Iterator[ResolvedTable]:
    """Yield a table, then the tables in it."""
    dumped = table.model_dump(mode="json", by_alias=True)
    keys: list[ResolvedKey] = []
    inner: list[tuple[str, Any]] = []
    for name, field in type(table).model_fields.items():
        key, value = field.alias or name, getattr(table, name)
        if value and tables_of(field.annotation):
            inner.append((key, value))
        else:
            where = _join(path, key)
            keys.append(ResolvedKey(where, dumped[key], origins.get(where, DEFAULT)))
    if keys or not inner or path:
        yield ResolvedTable(path, header, keys)
    name = header.strip("[]")
    for key, value in inner:
        below, inner_name = _join(path, key), _join(name, format_key(key))
        if isinstance(value, BaseModel):
            tables = value.tables if isinstance(value, Sources) else ()
            for source in tables:
                yield from _walk(source, origins, _join(below, source.name), f"[[{inner_name}]]")
            if not tables:
                yield from _walk(value, origins, below, f"[{inner_name}]")
        else:
            for index, element in enumerate(value):
                yield from _walk(element, origins, f"{below}.{index}", f"[[{inner_name}]]")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def format_line(key: ResolvedKey) -> str:
    """Return a key as TOML, with a comment where the file does not set it; an unset key is a comment."""
    name = format_key(key.path.rpartition(".")[2])
    if key.value is None:
        return f"# {name} is not set"
    comment = {DEFAULT: "  # default", "--set": "  # --set"}.get(key.origin, "")
    line = f"{name} = {format_value(key.value)}"
    if len(line) <= MAX_LINE or not isinstance(key.value, list):
        return line + comment
    return "\n".join([f"{name} = [", *_fill(map(format_value, key.value)), f"]{comment}"])


def _fill(items: Iterator[str]) -> Iterator[str]:
    """Yield lines with as many items of an array as fit."""
    line = ""
    for item in items:
        if line and len(line) + len(item) + 2 > MAX_LINE:
            yield line
            line = ""
        line = f"{line} {item}," if line else f"    {item},"
    yield line
