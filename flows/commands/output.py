"""What the command prints: tables for people, or one JSON object with --json. Text from the web is never read as markup."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataops.errors import ConfigError
from dataops.funnel import STAGES, funnel_stages
from dataops.redaction import shown
from dataops.snapshot import Manifest, find
from dataops.store import Store
from flows.deployment.order import Row
from flows.records import RunRecord, load_run, stores
from infra.doctor.diagnose import Check
from infra.local.services import ServiceStatus
from training.evaluation.intervals import summary_rows

WIDTH = 110
"""Columns of a table where standard output is no terminal."""
WRAPPED = ("dropped because", "by", "why")
"""Columns that are broken into lines where a table is too wide; others must stay whole."""
CONTENTS = 5
"""Values of a kind that `show` names of a dataset."""
LISTED = 20
"""Failed files that a run's summary names; the manifest has all."""


class _Plain(Console):
    """A console to which a string is text: no markup, no emoji names, control characters spelt out."""

    def __init__(self, width: int | None = None):
        super().__init__(width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)


def console() -> Console:
    """Standard output, with colours only on a terminal."""
    return _Plain() if sys.stdout.isatty() else _Plain(width=WIDTH)


def text(said: str, style: str = "") -> Text:
    """A line to print; what came from the web, a store or a server cannot steer the terminal."""
    return Text(shown(said), style=style)


def new_table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table without lines."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column not in WRAPPED)
    return table


def print_json(value: Any) -> None:
    """One JSON value on a line."""
    sys.stdout.write(json.dumps(value) + "\n")


def load_manifests(record: RunRecord, store: Store) -> list[Manifest]:
    """The manifests of the run's finished stages, as far as they are still complete in the store."""
    found = (find(store, run.stage, run.key) for run in record.stages if run.state in ("Completed", "Reused"))
    return [manifest for manifest in found if manifest is not None]


def show_run(record: RunRecord, store: Store) -> None:
    """A run: its stages, the funnel, the scores and the registered version."""
    out = console()
    table = new_table(
        f"Run {record.run_id}: {record.actual_state()}", "stage", "key", "state", "seconds", right=["seconds"]
    )
    manifests = load_manifests(record, store)
    there = {(manifest.stage, manifest.key) for manifest in manifests}
    for run in record.stages:
        gone = run.state in ("Completed", "Reused") and (run.stage, run.key) not in there
        table.add_row(run.stage, run.key, f"{run.state}, deleted since" if gone else run.state, f"{run.seconds:.1f}")
    out.print(table)
    show_tries(record, out)
    show_funnel(manifests, out)
    show_left_out(manifests, out)
    show_scores(manifests, out)
    if record.attempts and record.attempts[-1].error:
        out.print(Text("\n") + text(f"ended with: {record.attempts[-1].error.splitlines()[0]}"))
    if record.model_version:
        aliases = next((m.facts.get("alias") for m in manifests if m.stage == "register"), None)
        out.print(Text("\n") + text(f"Registered {record.model_version}" + (f", alias {aliases}" if aliases else "")))
    for name, link in sorted(record.model_links.items()):
        out.print(text(f"  {name}: {link}"), soft_wrap=True)


def show_tries(record: RunRecord, out: Console) -> None:
    """The flow runs that worked on the run, where there was more than one."""
    if len(record.attempts) < 2:
        return
    out.print()
    table = new_table("Tries", "started", "flow", "until", "machine", "ended")
    goes = record.attempts[-1] if record.actual_state() == "running" else None
    for attempt in record.attempts:
        how = (attempt.error or "done").splitlines()[0][:40] if attempt.ended_at else "killed"
        ended = text("" if attempt is goes else how)
        table.add_row(attempt.started_at, attempt.flow, attempt.until or STAGES[-1], text(attempt.host), ended)
    out.print(table)


def show_funnel(manifests: Sequence[Manifest], out: Console) -> None:
    """Rows in, kept and dropped by reason, per stage."""
    stages = funnel_stages(m for m in manifests if m.stage in ("extract", "filter", "download", "curate", "pack"))
    if not stages:
        return
    out.print()
    table = new_table(
        "Funnel (rows)", "stage", "in", "kept", "dropped", "dropped because", right=["in", "kept", "dropped"]
    )
    for stage in stages:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in stage["reasons"].items())
        table.add_row(
            stage["stage"], f"{stage['input']:,}", f"{stage['kept']:,}", f"{stage['dropped']:,}", text(reasons)
        )
    out.print(table)


def show_left_out(manifests: Sequence[Manifest], out: Console) -> None:
    """The source files that could not be read, and what could not be used of those that could."""
    facts = next((m.facts for m in manifests if m.stage == "extract"), {})
    if failed := facts.get("failed_files"):
        out.print(Text(f"\nextract left out {len(failed)} of {facts['files']} files that could not be read:"))
        for file, why in failed[:LISTED]:
            out.print(Text(f"  {file}: {why}"), soft_wrap=True)
    if damages := facts.get("damages"):
        counts = ", ".join(f"{reason} {n:,}" for reason, n in sorted(damages.items(), key=lambda item: -item[1]))
        out.print(Text(f"\nextract could not use, or not wholly: {counts} (`pairmill show KEY --json` lists where)"))


def show_scores(manifests: Sequence[Manifest], out: Console) -> None:
    """Zero-shot and retrieval scores with their 99.5% intervals, beside chance."""
    metrics = next((m.facts["metrics"] for m in manifests if m.stage == "evaluate"), None)
    if metrics is None:
        return
    out.print()
    numbers = ("value", "99.5% interval", "chance", "n")
    table = new_table("Zero-shot transfer (%)", "task", "metric", *numbers, right=numbers)
    for row in summary_rows(metrics):
        interval = "" if row["low"] is None else f"{100 * row['low']:.2f} - {100 * row['high']:.2f}"
        chance = "" if row["chance"] is None else f"{100 * row['chance']:.2f}"
        table.add_row(row["task"], row["metric"], f"{100 * row['value']:.2f}", interval, chance, f"{row['n']:,}")
    out.print(table)


def show_runs(records: Sequence[RunRecord], *, as_json: bool) -> int:
    """The history of runs."""
    if as_json:
        rows = []
        for record in records:
            fields = {"run_id", "name", "created_at", "model_version"}
            rows.append({**record.model_dump(mode="json", include=fields), "state": record.actual_state()})
        print_json(rows)
        return 0
    table = new_table("Runs", "run", "state", "started", "stages", "model")
    for record in records:
        done = sum(run.state in ("Completed", "Reused") for run in record.stages)
        stages = f"{done} of {len(STAGES)}"
        table.add_row(record.run_id, record.actual_state(), record.created_at, stages, record.model_version or "")
    console().print(table)
    return 0


def find_snapshot(key: str, home: Path, store_uri: str | None) -> tuple[Manifest, Store] | None:
    """The complete snapshot of a key in the known stores, whatever its stage."""
    for store in stores(home, store_uri):
        for stage in STAGES:
            if len(key) == 16 and key.isalnum() and (manifest := find(store, stage, key)) is not None:
                return manifest, store
    return None


def show_run_or_key(name: str, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """One run, or one snapshot by its key.

    Raises: ConfigError when there is neither.
    """
    if found := find_snapshot(name, home, store_uri):
        show_snapshot(*found, as_json=as_json)
        return 0
    try:
        record, store = load_run(name, home, store_uri)
    except ConfigError as error:
        raise ConfigError(f"{error}; nor is it the key of a complete snapshot") from error
    if as_json:
        manifests = {m.stage: m for m in load_manifests(record, store)}
        result = {**record.model_dump(mode="json"), "state": record.actual_state()}
        for stage in result["stages"]:
            if (manifest := manifests.get(stage["stage"])) is not None:
                stage["content_digest"] = manifest.content_digest
                stage["parts"] = [part.model_dump(mode="json") for part in manifest.parts]
                stage["path"] = f"{store.uri}/{manifest.stage}/{manifest.key}"
        print_json(result)
    else:
        show_run(record, store)
    return 0


def show_snapshot(manifest: Manifest, store: Store, *, as_json: bool) -> None:
    """One snapshot: what it holds and what it was made of."""
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    out = console()
    out.print(text(f"{manifest.stage}/{manifest.key} in {store.uri}, made {manifest.created_at}", style="bold"))
    out.print(text(f"content digest {manifest.content_digest}"))
    for source in manifest.inputs:
        out.print(text(f"made of {source.stage}/{source.key} ({source.digest[:16]})"))
    table = new_table("Parts", "name", "rows", "bytes", "sha256", right=["rows", "bytes"])
    for part in manifest.parts:
        table.add_row(part.name, f"{part.rows:,}", f"{part.bytes:,}", part.sha256[:16])
    out.print(table)
    show_funnel([manifest], out)
    show_contents(manifest, out)


def show_contents(manifest: Manifest, out: Console) -> None:
    """What is in a dataset, the most frequent first; nothing of another snapshot."""
    if manifest.stage != "pack" or "languages" not in manifest.facts:
        return
    out.print()
    for kind in ("languages", "hosts", "licenses", "crawls", "sizes"):
        counted = manifest.facts[kind]
        said = ", ".join(f"{name or 'none'} {number:,}" for name, number in list(counted.items())[:CONTENTS])
        out.print(text(f"{kind:<10} {said}" + (", …" if len(counted) > CONTENTS else "")), soft_wrap=True)


def show_deployed(rows: "Sequence[Row]", workers: Sequence[str], *, as_json: bool) -> int:
    """What stands in Prefect now, where to look at it, and what runs it."""
    if as_json:
        print_json({"standing": [asdict(row) for row in rows], "workers": list(workers)})
        return 0
    out = console()
    for kind, what in (("deployment", "runs"), ("pool", "type"), ("automation", "state")):
        table = new_table(f"{kind.capitalize()}s", "name", what)
        for row in rows:
            if row.kind == kind:
                table.add_row(text(row.name), text(row.what))
        out.print(table)
        out.print()
    for row in rows:
        if row.kind == "deployment":
            out.print(text(f"{row.name:<24} {row.url}"), soft_wrap=True)
    out.print()
    out.print(text(f"Workers run them; here: {workers[0]}"), soft_wrap=True)
    out.print(text("Or, on other machines:"))
    for command in workers[1:]:
        out.print(text(f"  {command}"), soft_wrap=True)
    return 0


def show_removed(names: Sequence[str], *, as_json: bool) -> int:
    """What is gone from Prefect."""
    if as_json:
        print_json({"removed": list(names)})
        return 0
    out = console()
    for name in names:
        out.print(text(f"removed {name}"))
    if not names:
        out.print("nothing was deployed for this config")
    return 0


def show_services(found: Sequence[ServiceStatus], *, as_json: bool) -> int:
    """The servers and where they are."""
    if as_json:
        print_json([{**asdict(s), "log": None if s.log is None else str(s.log)} for s in found])
        return 0
    table = new_table("Servers", "name", "state", "address", "pid")
    for service in found:
        table.add_row(service.name, service.state, service.ui_url or service.url or "", str(service.pid or ""))
    console().print(table)
    return 0


def show_checks(checks: Sequence[Check], *, as_json: bool) -> int:
    """The findings of the doctor; 2 where one is an error."""
    failed = any(not check.ok and check.severity == "error" for check in checks)
    if as_json:
        print_json([asdict(check) for check in checks])
        return 2 if failed else 0
    out = console()
    for check in checks:
        mark = "ok" if check.ok else check.severity
        out.print(text(f"{mark:>8}  {check.name}: {check.detail}"), soft_wrap=True)
        if not check.ok and check.remedy:
            out.print(text(f"{'':>8}  remedy: {check.remedy}"), soft_wrap=True)
    return 2 if failed else 0


def show_queries(queries: pl.DataFrame, path: Path, *, as_json: bool) -> int:
    """What a list of queries holds, by kind."""
    kinds = dict(sorted(queries.group_by("kind").len().iter_rows()))
    if as_json:
        print_json({"path": str(path), "queries": queries.height, "kinds": kinds})
        return 0
    listed = ", ".join(f"{kind} {number:,}" for kind, number in kinds.items())
    console().print(Text(f"{path}: {queries.height:,} queries ({listed})"), soft_wrap=True)
    return 0
