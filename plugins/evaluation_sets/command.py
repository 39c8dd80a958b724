"""Download the evaluation sets of suites: `datasets fetch`."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from dataops.errors import SourceError
from flows.commands.options import Json
from flows.commands.output import console, new_table, print_json
from infra.local import services
from plugins.evaluation_sets.evaluate import data_folder
from plugins.evaluation_sets.hub_sets import MAX_SET_BYTES, FetchResult, fetch_suite


def fetch(
    suite: Path,
    *,
    data: Annotated[Path | None, Parameter(help="Folder for the sets; default: `datasets` in the home.")] = None,
    max_bytes: Annotated[
        NonNegativeInt, Parameter(help="Maximum size of a set on the Hub in bytes: a larger one is not downloaded.")
    ] = MAX_SET_BYTES,
    json: Json = False,
) -> int:
    """Download the evaluation sets of a suite from the Hub, verify them, and list those that cannot be downloaded.

    Args:
        suite: TOML file, such as configs/suites/datacomp.toml.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    folder = data_folder(suite, data, services.home()) or suite.resolve().parent
    if folder.is_relative_to(services.home()):
        services.make_home()
    results = fetch_suite(suite, folder, max_bytes)
    if json:
        print_json({"data": str(folder), "sets": [asdict(result) for result in results]})
    else:
        _show_fetched(results, folder)
    present = [result for result in results if result.state in ("fetched", "reused")]
    if not present and (failed := [result for result in results if result.state == "failed"]):
        raise SourceError(f"none of {len(failed)} sets could be downloaded; the first error: {failed[0].reason}")
    return 0


def _show_fetched(results: Sequence[FetchResult], folder: Path) -> None:
    table = new_table(f"Evaluation sets in {folder}", "set", "state", "MB", "source or reason", right=["MB"])
    for result in results:
        size = f"{result.bytes / 1e6:,.1f}" if result.bytes else ""
        table.add_row(result.name, result.state, size, result.reason or result.source)
    console().print(table)
