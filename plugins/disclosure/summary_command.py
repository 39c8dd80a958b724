"""`pairmill summary`: writes the public summary of training content of a model or a dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError, writing
from dataops.formatting import format_quantity
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, new_table
from infra.local import services
from plugins.disclosure.pages import render_html, render_markdown
from plugins.disclosure.provider_facts import read_facts
from plugins.disclosure.subject import find_subject
from plugins.disclosure.summary import Summary, as_json, count_states, describe_open, summarise
from tasks.reports.page import encode_page

WRITERS: dict[str, Callable[[Summary], str]] = {".md": render_markdown, ".html": render_html, ".json": as_json}
"""Writer of each format, by the suffix of the file."""


def command(
    what: Name,
    *,
    out: Annotated[Path | None, Parameter(help="File to write: .md, .html or .json.")] = None,
    facts: Annotated[
        Path | None, Parameter(help="TOML file with a table [summary]: what the provider states of open fields.")
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write the public summary of training content that the EU AI Act asks for, in the Commission's template.

    Each field is filled from the manifests, or it is listed as open, with who must fill it. With --json the summary is
    printed.

    Args:
        what: The key of a dataset or a train snapshot, a run, or a registered model (NAME/VERSION, NAME@ALIAS).
    """
    if out is None and not json:
        raise ConfigError("no file is named; pass --out FILE (.md, .html or .json), or --json")
    if out is not None and out.suffix not in WRITERS:
        raise ConfigError(f"--out {out}: its name must end in {', '.join(WRITERS)}")
    made = summarise(find_subject(what, services.home(), store), read_facts(facts))
    if out is not None:
        with writing(out):
            out.write_bytes(encode_page(WRITERS[out.suffix](made)))
    if json:
        console().file.write(as_json(made))
    else:
        _print(made, out)
    return 0


def _print(made: Summary, out: Path | None) -> None:
    screen = console()
    screen.write(f"{made.name}: {format_quantity(made.pairs, 'pair')}. {count_states(made)}")
    if opened := describe_open(made.list_open()):
        table = new_table("Open fields", "section", "key", "to be filled by")
        for field in opened:
            table.add_row(field["section"], field["field"], field["who"])
        screen.print(table)
        hint = "State them in the table [summary] of a TOML file, and pass it: `pairmill summary ... --facts FILE`"
        screen.message(hint)
    screen.write(f"wrote {out}")
