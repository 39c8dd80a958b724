"""The commands before a run: `init`, `plan` and `try`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.stages import StageName
from flows.commands.options import Json, Settings, StoreUri, Yes
from infra.local import services


def init(
    folder: Path = Path(),
    *,
    from_: Annotated[
        str | None, Parameter(name="--from", help="Kind of source: warc, common_crawl, pairs, site or one of a plugin.")
    ] = None,
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
    from flows.commands.before.init import init as write_project

    return write_project(folder, from_, data, contact, yes=yes, as_json=json)


def plan(
    path: Path,
    /,
    *,
    set_: Settings = (),
    until: Annotated[StageName | None, Parameter(help="The last stage.")] = None,
    force: Annotated[tuple[StageName, ...], Parameter(help="Plan to make this stage again. May be repeated.")] = (),
    json: Json = False,
) -> int:
    """Show what a run would reuse and make, why, and what it takes: time, bytes, requests, dollars.

    Args:
        path: TOML file.
    """
    from flows.commands.before.plan import show_plan

    return show_plan(path, set_, services.home(), until, force, as_json=json)


def try_(
    stage: StageName,
    /,
    *,
    set_: Settings = (),
    rows: Annotated[int, Parameter(help="Number of rows of the sample.")] = 10_000,
    examples: Annotated[int, Parameter(help="Number of examples of each kind.")] = 5,
    run: Annotated[str | None, Parameter(help="The run whose config is changed; default: the newest.")] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Run extract, filter or curate with other settings on a sample of a finished run, and show what changes.

    The sample and the results are in a temporary store: no snapshot is made.

    Args:
        stage: extract, filter or curate.
    """
    from flows.commands.before.show_trial import show_trial

    return show_trial(stage, set_, rows, examples, services.home(), store, run, as_json=json)
