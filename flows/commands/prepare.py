"""The commands before a run: `init`, `config show` and `config schema`."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flows.commands.options import Json, Settings, Yes
from flows.keys.template import Kind

config = App(name="config", help="The keys of configs.")


def init(
    folder: Path = Path(),
    *,
    from_: Annotated[Kind | None, Parameter(name="--from", help="Where the pairs come from.")] = None,
    data: Annotated[
        str | None, Parameter(help="Path or glob of the files, id of a crawl, or URL at which a crawl begins.")
    ] = None,
    contact: Annotated[
        str | None, Parameter(help="URL or mailto: by which the owner of a site reaches you, for the User-Agent.")
    ] = None,
    yes: Annotated[Yes, Parameter(help="Ask nothing: use defaults. An existing file is never replaced then.")] = False,
    json: Json = False,
) -> int:
    """Write a commented config and an evaluation suite that run, after up to three questions.

    Args:
        folder: Folder of the new project; its name is that of the runs and of the model.
    """
    from flows.commands.init import init as write_project

    return write_project(folder, from_, data, contact, yes=yes, as_json=json)


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
