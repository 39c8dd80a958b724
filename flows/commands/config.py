"""Print the keys of a config, and the JSON Schema of all configs: `config show`, `config schema`."""

import json as json_
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError
from flows.commands.options import Json, Settings
from flows.commands.output import console, print_json, text
from flows.keys.json_schema import config_schema
from flows.keys.resolved import format_line, resolve_config


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
            shown.print(text(line, style), soft_wrap=True)
    return 0


def schema(*, out: Annotated[Path | None, Parameter(help="Write it to this file instead.")] = None) -> int:
    """Print the JSON Schema of configs, for editors.

    The first line of a config names its schema: `#:schema ./config.schema.json` (taplo, Even Better TOML).
    """
    written = json_.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        sys.stdout.write(written)
        return 0
    try:
        out.write_text(written, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    return 0
