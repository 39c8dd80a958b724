"""The commands before a run: `config show` and `config schema`."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.commands.options import Json, Settings

config = App(name="config", help="The keys of configs.")


@config.command
def show(path: Path, /, *, set_: Settings = (), json: Json = False) -> int:
    """Print a config with all its keys as TOML; a key that the file does not set is marked as its default.

    Args:
        path: TOML file. The files that it names may be missing.
    """
    from flows.commands.show_config import show_config

    return show_config(path, set_, as_json=json)


@config.command
def schema(*, out: Annotated[Path | None, Parameter(help="Write it to this file instead.")] = None) -> int:
    """Print the JSON Schema of configs, for editors.

    The first line of a config names its schema: `#:schema ./config.schema.json` (taplo, Even Better TOML).
    """
    from flows.commands.show_config import write_schema

    return write_schema(out)
