"""Print the report of `pairmill takedown`."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from dataops.formatting import format_counts, format_quantity
from dataops.trace.requests import LISTED
from flows.commands.output import text


def show_report(report: Mapping[str, Any], datasets: int, out: Console) -> None:
    """Print what a takedown made, before it deletes anything."""
    request = report["request"]
    known = "recorded" if request["new"] else "already recorded"
    targets, unmatched = format_quantity(len(request["targets"]), "target"), report["unmatched"]
    title = f"Takedown {request['digest']} in {report['store']}: {targets}, {known}"
    out.print(text(title, style="bold"), soft_wrap=True)
    if not datasets:
        out.print(text("No dataset has any of these pairs. Later runs leave them out."))
    if unmatched:
        some = "; check them" if len(unmatched) <= LISTED else f"; check them, here the first {LISTED}"
        head = f"No pair and no raw image here matches {len(unmatched):,} of {targets}{some}:"
        out.print(text(head, style="yellow"), soft_wrap=True)
        for target in unmatched[:LISTED]:
            out.print(text(f"  {target}"), soft_wrap=True)
    for dataset in report["datasets"]:
        out.print()
        where = f"{format_quantity(dataset['pairs'], 'pair')} in {format_quantity(len(dataset['shards']), 'shard')}"
        out.print(text(f"dataset {dataset['dataset']}: {where} ({', '.join(dataset['shards'][:8])})", style="bold"))
        if dataset["sources"]:
            out.print(text(f"  by source: {format_counts(dataset['sources'].items())}"))
        if dataset["trouble"]:
            out.print(text(f"  NO NEXT VERSION: {dataset['trouble']}", style="red"), soft_wrap=True)
        else:
            shards = (
                f"{format_quantity(len(dataset['rewritten']), 'shard')} rewritten, {dataset['unchanged']} unchanged"
            )
            out.print(text(f"  next version {dataset['next']}: {shards}", style="green"))
        for line in dataset["proof"]:
            out.print(text(f"  proof: {line}"), soft_wrap=True)
        for uri in dataset["models_tagged"]:
            out.print(text(f"  {uri} was trained on them: tagged in MLflow"))
        for uri, why in dataset["models_not_tagged"].items():
            out.print(text(f"  {uri} was trained on them: NOT TAGGED: {why}", style="red"), soft_wrap=True)


def show_end(report: Mapping[str, Any], report_name: str, out: Console) -> None:
    """Print what a takedown deleted, what is left, and the search."""
    out.print()
    if deleted := report["deleted"]:
        for key, number in deleted["raw_samples"].items():
            out.print(text(f"deleted {format_quantity(number, 'sample')} from raw snapshot download/{key}"))
        for key in deleted["datasets"]:
            out.print(text(f"deleted dataset version {key}"))
        if deleted["originals"]:
            out.print(text(f"deleted {deleted['originals']:,} originals"))
        if deleted["leftovers"]:
            out.print(text(f"deleted {format_quantity(deleted['leftovers'], 'object')} of unfinished work"))
        for name, why in deleted["not_deleted"].items():
            out.print(text(f"NOT deleted: {name}: {why}", style="red"), soft_wrap=True)
    for key, number in report["raw_snapshots"].items():
        out.print(text(f"raw snapshot download/{key} still has {number:,} of the images; --delete-raw deletes them"))
    for name, number in report["leftovers"].items():
        out.print(
            text(
                f"{format_quantity(number, 'object')} of unfinished work in {name} may hold such images;"
                " --delete-raw deletes them"
            )
        )
    if report["search"]:
        _show_search(report["search"], out)
    for one in report["published"]:
        what = f"{one['name']} was published to {one['target']} at {one['published_at'] or one['began_at']}"
        out.print(text(f"{what}: {one['remedy']}", style="yellow"), soft_wrap=True)
    out.print(text(f"report: {report['store']}/{report_name}"), soft_wrap=True)


def _show_search(search: Mapping[str, Any], out: Console) -> None:
    erased = search["erased"]
    rows, snapshots = sum(erased["rows"].values()), len(erased["rows"])
    if rows:
        where = format_quantity(snapshots, "snapshot")
        out.print(text(f"erased URL and caption of {format_quantity(rows, 'row')} in {where}"))
    for number, what in (
        (erased["objects"], "other object of the store"),
        (erased["files"], "file of the home folder"),
    ):
        if number:
            many = what.replace("object", "objects").replace("file ", "files ")
            out.print(text(f"erased from {format_quantity(number, what, many)}"))
    for name, why in search["not_erased"].items():
        out.print(text(f"NOT erased: {name}: {why}", style="red"), soft_wrap=True)
    out.print()
    for one in search["searched"]:
        size = f"{one['bytes'] / 1e6:,.1f} MB"
        weights = (
            f"; {format_quantity(one['weights_not_read'], 'file')} of weights not read"
            if one["weights_not_read"]
            else ""
        )
        out.print(
            text(f"searched {one['place']}: {format_quantity(one['files'], 'file')}, {size}{weights}"), soft_wrap=True
        )
    for name, why in search["could_not_search"].items():
        out.print(text(f"NOT searched: {name}: {why}", style="red"), soft_wrap=True)
    for one in search["found"][:LISTED]:
        what = format_counts(one["found"].items())
        out.print(text(f"FOUND in {one['place']}: {one['name']}: {what}", style="red"), soft_wrap=True)
        out.print(text(f"  {one['remedy']}"), soft_wrap=True)
    if len(search["found"]) > LISTED:
        out.print(text(f"and in {len(search['found']) - LISTED:,} more, which the report lists", style="red"))
    if not search["found"]:
        out.print(text("found: no image, preview, caption or URL of the removed pairs", style="green"))
    out.print(text("out of reach of this search:"))
    for line in search["out_of_reach"]:
        out.print(text(f"  {line}"), soft_wrap=True)
