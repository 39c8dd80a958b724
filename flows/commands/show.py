"""`pairmill runs` and `pairmill show`: print all runs, one run, or one snapshot."""

import json as json_
import os
import sys
import webbrowser
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

from cyclopts import Parameter

from dataops import plugins
from dataops.errors import ConfigError, writing
from dataops.facts import EvaluateFacts, ExtractFacts, PackFacts, RegisterFacts, funnel_stages
from dataops.formatting import format_bytes, format_counts, format_quantity, format_share
from dataops.redaction import escape_for_display
from dataops.snapshot import Manifest
from dataops.stages import STAGES, RunState
from dataops.store import Store
from dataops.trace.sources import count_filtered, list_named_sources
from flows.commands.options import Json, OptionalName, StoreUri
from flows.commands.output import (
    Output,
    console,
    first_of,
    new_table,
    print_json,
    score_cells,
    show_links,
    text,
)
from flows.dataset_checks import complete_page, find_report
from flows.records import (
    FINISHED,
    RunRecord,
    find_named_version,
    find_snapshot,
    list_runs,
    load_manifests,
    load_run,
    newest_run,
    no_runs,
)
from infra.local import services
from tasks.checks.check import CheckReport
from tasks.growth.versions import Version, find_packs, find_version
from tasks.register.config import NO_GATE
from training.evaluation.contamination import format_overlap
from training.evaluation.intervals import flatten_metrics

THROUGHPUT = "evidence-throughput.jsonl"
CONTENTS = 5
"""Maximum number of languages, hosts etc. that `show` prints for a dataset."""
LISTED = 20
"""Maximum number of failed files, inputs or parts that are listed; the manifest has all."""


def runs(
    *,
    limit: Annotated[int | None, Parameter(help="List only so many of the newest runs.")] = None,
    state: Annotated[tuple[RunState, ...], Parameter(help="List only runs in this state. May be repeated.")] = (),
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """List the runs of the known stores, or of one, oldest first, and close killed ones in Prefect and MLflow."""
    records = list_runs(services.home(), store)
    if_empty = "no run is in this state" if records else no_runs(services.home(), store)
    code = show_runs(select_runs(records, limit, state), if_empty, as_json=json)
    if os.environ.get("PREFECT_API_URL") and any(record.actual_state() != record.state for record in records):
        from flows.abandoned_runs import close_killed_runs

        close_killed_runs(records, services.home())
    return code


def show(
    run_or_key: OptionalName = None,
    *,
    page: Annotated[
        Path | None, Parameter(help="Also write the HTML page of a snapshot, or of a run's dataset, to this file.")
    ] = None,
    open_: Annotated[bool, Parameter(name="--open", negative="", help="Also open that page in a browser.")] = False,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Show one run, or one snapshot by its key.

    Args:
        run_or_key: A run id, the 16 hex digits of a snapshot's key, or a version of a dataset that grows
            (NAME-DIGEST/NUMBER); by default the newest run.
    """
    name = run_or_key or newest_run(services.home(), store)
    code = show_run_or_key(name, services.home(), store, as_json=json)
    if page is not None or open_:
        written = write_stage_page(name, services.home(), store, page)
        open_page(written) if open_ else sys.stderr.write(escape_for_display(f"wrote {written}") + "\n")
    return code


def select_runs(records: Sequence[RunRecord], limit: int | None, states: Sequence[RunState]) -> list[RunRecord]:
    """Return the newest `limit` runs that are in one of the states, oldest first; no state means any.

    Raises: ConfigError if the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}; it must be at least 1")
    found = [record for record in records if not states or record.actual_state() in states]
    return found[-limit:] if limit else found


def show_runs(records: Sequence[RunRecord], if_empty: str, *, as_json: bool) -> int:
    """Print the history of runs, or `if_empty` if there is none."""
    if as_json:
        fields = {"run_id", "name", "created_at", "model_version"}
        print_json([{**r.model_dump(mode="json", include=fields), "state": r.actual_state()} for r in records])
        return 0
    if not records:
        console().message(if_empty)
        return 0
    table = new_table("Runs", "run", "state", "started", "stages", "model")
    for record in records:
        table.add_row(
            record.run_id, record.actual_state(), record.created_at, _count_stages(record), record.model_version or ""
        )
    console().print(table)
    return 0


def _count_stages(record: RunRecord) -> str:
    """Return how many stages are finished of those that the newest attempt should run: `5 of 5, until pack`."""
    finished, last = sum(run.state in FINISHED for run in record.stages), record.last_stage
    planned = STAGES.index(last) + 1 if last in STAGES else len(STAGES)
    if planned == len(STAGES) or finished > planned:  # an earlier attempt went further
        return f"{finished} of {len(STAGES)}"
    return f"{finished} of {planned}, until {last}"


def show_run_or_key(name: str, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """Print one run, or one snapshot by its key.

    Raises: ConfigError if there is neither.
    """
    if found := find_snapshot(name, home, store_uri):
        show_snapshot(*found, as_json=as_json)
        return 0
    if version := find_named_version(name, home, store_uri):
        _show_version(*version, as_json=as_json)
        return 0
    try:
        record, store = load_run(name, home, store_uri)
    except ConfigError as error:
        raise ConfigError(f"{error}; it is not the key of a complete snapshot either") from error
    if as_json:
        _print_run_json(record, store)
    else:
        show_run(record, store)
    return 0


def _show_version(version: Version, store: Store, *, as_json: bool) -> None:
    """Print what a version of a dataset that grows added, and its packs, as takedowns have left them."""
    packs = find_packs(store, version)
    if as_json:
        print_json(
            {**version.model_dump(mode="json"), "packs": [{"key": p.key, "pairs": p.counts.kept} for p in packs]}
        )
        return
    console().write(version.describe())
    table = new_table("Packs", "key", "pairs", "shards", "bytes", right=["pairs", "shards", "bytes"])
    for pack in packs:
        shards = pack.named("", ".tar")
        size = format_bytes(sum(shard.bytes for shard in shards), "B")
        table.add_row(pack.key, f"{pack.counts.kept:,}", f"{len(shards):,}", size)
    console().print(table)


def _print_run_json(record: RunRecord, store: Store) -> None:
    manifests = {m.stage: m for m in load_manifests(record, store)}
    result = {**record.model_dump(mode="json"), "state": record.actual_state()}
    for stage in result["stages"]:
        if (manifest := manifests.get(stage["stage"])) is not None:
            stage["content_digest"] = manifest.content_digest
            stage["parts"] = [part.model_dump(mode="json") for part in manifest.parts]
            stage["path"] = f"{store.uri}/{manifest.stage}/{manifest.key}"
    print_json(result)


def show_run(record: RunRecord, store: Store, *, with_error: bool = True) -> None:
    """Print a run: its stages, the funnel, the scores and the registered version.

    Args:
        with_error: also print how the newest attempt failed.
    """
    out = console()
    manifests = load_manifests(record, store)
    complete = {(manifest.stage, manifest.key) for manifest in manifests}
    table = new_table(
        f"Run {record.run_id}: {record.actual_state()}", "stage", "key", "state", "seconds", right=["seconds"]
    )
    for run in record.stages:
        deleted = run.state in FINISHED and (run.stage, run.key) not in complete
        state = f"{run.state}, deleted since" if deleted else run.state
        table.add_row(run.stage, run.key, state, f"{run.seconds:.1f}")
    out.print(table)
    _show_attempts(record, out)
    _show_funnel(manifests, out)
    _show_sources(manifests, out)
    _show_checks(record.checks, out)
    _show_unreadable_sources(manifests, out)
    _show_training(manifests, store, out)
    _show_scores(manifests, out)
    if with_error and record.attempts and record.attempts[-1].error:
        out.message(f"\nended with: {record.attempts[-1].error.splitlines()[0]}")
    if record.version:
        one = find_version(store, record.version)
        out.write(f"\n{'' if one.run_id == record.run_id else 'Nothing was new. '}{one.describe()}")
    if record.model_version:
        facts = next((RegisterFacts.of(m) for m in manifests if m.stage == "register"), None)
        alias = f", alias {facts.alias}" if facts and facts.alias else ""
        gate = f" ({facts.gate})" if facts and facts.gate.startswith(NO_GATE) else ""
        out.write(f"\nRegistered {record.model_version}{alias}{gate}")
    elif any(manifest.stage == "pack" for manifest in manifests):  # the page of a version links to its dataset's
        whole = record.version or record.run_id
        out.message(f"\ndataset page: `pairmill show {whole} --open`")
    if not record.model_version and (trained := [m.key for m in manifests if m.stage == "train"]):
        command = f"pairmill export {trained[0]} --format open_clip --out FOLDER"
        out.message(f"model: `{command}`")
    show_links(record.model_links, out)


def _show_attempts(record: RunRecord, out: Output) -> None:
    """Print the flow runs that worked on the run, if there was more than one."""
    if len(record.attempts) < 2:
        return
    out.print()
    table = new_table("Attempts", "started", "flow", "until", "machine", "ended")
    running = record.attempts[-1] if record.actual_state() == "running" else None
    for attempt in record.attempts:
        end = (attempt.error or "done").splitlines()[0][:40] if attempt.ended_at else "killed"
        ended = text("" if attempt is running else end)
        table.add_row(attempt.started_at, attempt.flow, attempt.until or STAGES[-1], text(attempt.host), ended)
    out.print(table)


def _show_funnel(manifests: Sequence[Manifest], out: Output) -> None:
    """Print for each stage the rows in, kept and dropped, and the drop reasons."""
    stages = funnel_stages(manifests)
    if not stages:
        return
    out.print()
    numbers = ["in", "kept", "dropped"]
    table = new_table("Funnel (rows)", "stage", *numbers, "dropped because", right=numbers)
    for stage in stages:
        reasons = text(format_counts(stage["reasons"].items()))
        table.add_row(stage["stage"], *(f"{stage[name]:,}" for name in ("input", "kept", "dropped")), reasons)
    out.print(table)


def _show_sources(manifests: Sequence[Manifest], out: Output) -> None:
    """Print the pairs that extract and filter kept of each named source, and that the dataset has."""
    by_stage = {manifest.stage: manifest for manifest in manifests}
    packed = PackFacts.of(by_stage["pack"]).sources if "pack" in by_stage else {}
    if not (sources := list_named_sources(by_stage)):
        return
    out.print()
    filtered = count_filtered(by_stage)
    numbers = ["extracted", "filtered", "in dataset"]
    table = new_table("Sources (pairs)", "source", "kind", "files", *numbers, right=["files", *numbers])
    for source in sources:
        known = [f"{source.files:,}", f"{source.counts.kept:,}"] if "extract" in by_stage else ["", ""]
        kept = f"{filtered[source.name]:,}" if source.name in filtered else ""
        table.add_row(
            source.name, source.kind, *known, kept, f"{packed[source.name]:,}" if source.name in packed else ""
        )
    out.print(table)


def _show_checks(report: CheckReport | None, out: Output) -> None:
    """Print the checks of the dataset that failed, and how many passed; `--json` has all."""
    if report is None or not report.results:
        return
    out.write(f"\nChecks: {report.verdict}")
    for result in report.failed:
        out.write(f"  {result.check} ({result.outcome}): {result.text}")


def _show_unreadable_sources(manifests: Sequence[Manifest], out: Output) -> None:
    """Print the source files that could not be read, and how many records of the others could not be used."""
    extract = next((one for one in manifests if one.stage == "extract"), None)
    if extract is None:
        return
    facts = ExtractFacts.of(extract)
    if failed := facts.failed_files:
        out.print()
        files = format_quantity(facts.files, "file")
        out.write(f"extract left out {len(failed)} of {files} that could not be read:")
        for file, why in first_of(failed, LISTED):
            out.write(f"  {file}: {why}")
        _print_rest(len(failed), "files", extract, out)
    if damages := facts.damages:
        counts = format_counts(Counter(damages).most_common())
        out.print()
        where = "(`pairmill show KEY --json` lists where)"
        out.message(f"extract could not use, or not wholly: {counts} {where}")


def _show_scores(manifests: Sequence[Manifest], out: Output) -> None:
    """Print zero-shot and retrieval scores with their 99.5% intervals and the chance level."""
    metrics = next((EvaluateFacts.of(m).metrics for m in manifests if m.stage == "evaluate"), None)
    if not metrics:  # the run has not come to its evaluation, or names no suite
        return
    out.print()
    numbers = ("value", "99.5% interval", "chance", "n")
    table = new_table("Zero-shot transfer (%)", "task", "metric", *numbers, right=numbers)
    for row in flatten_metrics(metrics):
        table.add_row(row["task"], row["metric"], *score_cells(row))
    out.print(table)
    for task, result in metrics.items():
        if (row := result.get("contamination")) and row["overlap"]:
            out.write(f"{task}: {format_overlap(row)}")


def _show_training(manifests: Sequence[Manifest], store: Store, out: Output) -> None:
    """Print the speed and the memory of the training: medians over its log intervals, and the last memory."""
    manifest = next((m for m in manifests if m.stage == "train" and m.named(THROUGHPUT)), None)
    if manifest is None:
        return
    rows = [json_.loads(line) for line in store.read(manifest.path(THROUGHPUT)).splitlines()]
    if not rows:
        return
    figures = [f"{median(row['samples_per_second'] for row in rows):,.0f} samples/s"]
    figures.append(f"{format_share(median(row['data_wait_fraction'] for row in rows), 1)} of the time waiting for data")
    if mfu := [row["mfu"] for row in rows if "mfu" in row]:
        figures.append(f"MFU {format_share(median(mfu), 1)}")
    for name, what in (("gpu_peak_memory_gb", "of GPU memory at most"), ("process_memory_gb", "of process memory")):
        if name in rows[-1]:
            figures.append(f"{rows[-1][name]:.1f} GB {what}")
    out.write(f"\ntraining: {', '.join(figures)}")


def show_snapshot(manifest: Manifest, store: Store, *, as_json: bool) -> None:
    """Print one snapshot: its inputs, its parts and what it holds."""
    report = find_report(manifest.key, store) if manifest.stage == "pack" else None
    if as_json:
        checks = {} if report is None else {"checks": report.model_dump(mode="json")}
        print_json(manifest.model_dump(mode="json") | checks)
        return
    out = console()
    out.write(f"{manifest.stage}/{manifest.key} in {store.uri}, made {manifest.created_at}", "bold")
    out.write(f"content digest {manifest.content_digest}")
    for source in first_of(manifest.inputs, LISTED):
        out.write(f"made from {source.stage}/{source.key} ({source.digest[:16]})")
    _print_rest(len(manifest.inputs), "inputs", manifest, out)
    table = new_table("Parts", "name", "rows", "bytes", "sha256", right=["rows", "bytes"])
    for part in first_of(manifest.parts, LISTED):
        table.add_row(part.name, f"{part.rows:,}", f"{part.bytes:,}", part.sha256[:16])
    out.print(table)
    _print_rest(len(manifest.parts), "parts", manifest, out)
    _show_funnel([manifest], out)
    _show_sources([manifest], out)
    _show_checks(report, out)
    _show_contents(manifest, out)
    _show_training([manifest], store, out)


def _print_rest(number: int, kind: str, manifest: Manifest, out: Output) -> None:
    """Print how many inputs, parts or files are not listed, and which command lists them."""
    if number > LISTED + 1:
        out.message(f"and {number - LISTED:,} more {kind}: `pairmill show {manifest.key} --json` lists all {number:,}")


def _show_contents(manifest: Manifest, out: Output) -> None:
    """Print the most frequent languages, hosts, licences, crawls and sizes of a dataset."""
    if manifest.stage != "pack":
        return
    out.print()
    facts = PackFacts.of(manifest)
    for kind in ("languages", "hosts", "licenses", "crawls", "sizes"):
        counted: Mapping[str, int] = getattr(facts, kind)
        counts = format_counts((name or "none", number) for name, number in list(counted.items())[:CONTENTS])
        out.write(f"{kind:<10} {counts}" + (", …" if len(counted) > CONTENTS else ""))


PAGED = ("pack", "download", "filter", "curate", "extract", "train")
"""Stages that have a page; `curate` has that of its first step with one. For a run, the first that it has counts."""


def write_stage_page(name: str, home: Path, store_uri: str | None, path: Path | None) -> Path:
    """Write the page of a snapshot, and return the file.

    Args:
        name: the key of the snapshot, a run that made or reused it, or a version of a dataset that grows.
        path: the file; by default one in the home.

    Raises: ConfigError if there is no page, or the file cannot be written.
    """
    from tasks.pack.union import render_version
    from tasks.reports.page import encode_page

    if version := find_named_version(name, home, store_uri):
        return _write_page(encode_page(render_version(*version)), path, home, f"version-{name.replace('/', '-')}")
    found = find_snapshot(name, home, store_uri)
    if found is not None:
        manifests, store = [found[0]], found[1]
    else:
        record, store = load_run(name, home, store_uri)
        manifests = load_manifests(record, store)
    paged = [one for one in manifests if one.stage in PAGED]
    if not paged:
        raise ConfigError(
            f"{name} has no complete snapshot of the stages {', '.join(PAGED)}; other stages have no page"
        )
    manifest = min(paged, key=lambda manifest: PAGED.index(manifest.stage))
    return _write_page(_page(manifest, store), path, home, f"{manifest.stage}-{manifest.key}")


def _write_page(page: bytes, path: Path | None, home: Path, name: str) -> Path:
    written = path or home / "pages" / f"{name}.html"
    with writing(written):
        if path is None:
            written.parent.mkdir(exist_ok=True)
        written.write_bytes(page)
    return written


def open_page(page: Path) -> None:
    """Open a page in the user's browser, and print on standard error where it is."""
    opened = webbrowser.open(page.absolute().as_uri())
    line = f"opened {page}" if opened else f"no browser was found; open {page} in one"
    sys.stderr.write(escape_for_display(line) + "\n")


def _page(manifest: Manifest, store: Store) -> bytes:
    from tasks.pack.card import HTML_PAGE
    from tasks.reports.page import encode_page

    if manifest.stage != "pack":
        return encode_page(plugins.find("pages", manifest.stage)(manifest, store))
    if not manifest.named(HTML_PAGE):
        raise ConfigError(
            f"pack/{manifest.key} was made by an earlier version of pairmill, which wrote no page; make it again"
        )
    return complete_page(store.read(manifest.path(HTML_PAGE)), manifest.key, store)
