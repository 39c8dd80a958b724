"""`pairmill config show` and `config schema`: print a resolved config, and the JSON Schema of all configs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dataops.errors import ConfigError
from flows.commands.output import console, print_json, text
from flows.keys.json_schema import config_schema
from flows.keys.resolved import format_line, resolve_config


def show_config(path: Path, settings: Sequence[str], *, as_json: bool) -> int:
    """Print a config as TOML with all keys, those that the file does not set marked as defaults."""
    config, tables = resolve_config(path, settings)
    if as_json:
        keys = [{"key": key.path, "value": key.value, "origin": key.origin} for table in tables for key in table.keys]
        print_json({"path": str(path), "config": config.as_dict(), "keys": keys})
        return 0
    out = console()
    for table in tables:
        lines = [("", ""), (table.header, "bold")] if table.header else []
        lines += [
            (line, "dim" if key.is_default or key.value is None else "")
            for key in table.keys
            for line in format_line(key).split("\n")
        ]
        for line, style in lines:
            out.print(text(line, style), soft_wrap=True)
    return 0


def write_schema(path: Path | None) -> int:
    """Print the JSON Schema of a config, or write it to a file."""
    schema = json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
    if path is None:
        sys.stdout.write(schema)
        return 0
    try:
        path.write_text(schema, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    return 0
