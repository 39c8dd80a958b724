"""Make a stage twice on the same sample, with the config of a run and with other settings, and compare the rows."""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from dataops.config import StageConfig
from dataops.errors import ConfigError
from dataops.process import count_cores
from dataops.snapshot import Manifest, find_manifest, read_parts
from dataops.stages import find_table
from dataops.store import Store, open_store
from dataops.toml_problems import format_problems
from flows.config import RunConfig, apply_setting, validate_values
from flows.records import RunRecord, list_runs, load_run
from plugins.trial.sample import take_sample
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.curate.step import list_steps
from tasks.engine.context import Context
from tasks.engine.map_parts import shared_workers
from tasks.engine.stage import Stage, make, plan
from tasks.extract.sources.base import FilesSource
from tasks.extract.stage import EXTRACT
from tasks.filter.stage import FILTER

STAGES: dict[str, tuple[Stage, str | None]] = {
    "extract": (EXTRACT, None),
    "filter": (FILTER, "extract"),
    "curate": (CURATE, "download"),
}
"""Stages that can be tried, each with the stage whose snapshot it reads."""
WHY_NOT = {
    "download": "it sends requests to hosts, so a trial would load them again",
    "pack": "it drops no row, except those of takedowns",
    "train": "a sample shows nothing about a model; set train.epochs and train.model for a short run",
    "evaluate": "it needs a trained model; use `pairmill eval MODEL --suite SUITE`",
    "register": "it writes to the model registry",
}
"""Why the other stages cannot be tried."""
_COLUMNS = ["uid", "url", "caption"]


@dataclass(frozen=True)
class Trial:
    """The result of a trial."""

    stage: str
    run_id: str
    rows: int
    """Rows of the sample."""
    of_rows: int
    """Rows of the snapshot."""
    before: Counter[str]
    """Rows by `kept` or drop reason, with the config of the run."""
    after: Counter[str]
    changed: pl.DataFrame
    """Rows with another outcome: uid, url, caption, before, after; `kept`, a drop reason, or `none` for no such row."""
    unchanged: pl.DataFrame
    """The other rows, in the same columns."""
    notes: tuple[str, ...]
    seconds: float


def try_stage(
    name: str, settings: Sequence[str], rows: int, home: Path, store_uri: str | None, run_id: str | None
) -> Trial:
    """Make a stage on a sample, before and after settings.

    Args:
        rows: maximum number of rows of the sample.
        run_id: the run whose config and snapshots are used; by default the newest that has finished the stage before.

    Raises: ConfigError if the stage cannot be tried, a setting is wrong or of another stage, or there is no such run.
    """
    if name in WHY_NOT:
        raise ConfigError(f"{name} cannot be tried: {WHY_NOT[name]}; stages that can: {', '.join(STAGES)}")
    if rows < 1:
        raise ConfigError(f"--rows is {rows}; it must be at least 1")
    stage, reads = STAGES[name]
    record, store, manifest = _find_run(name, reads, home, store_uri, run_id)
    config = _validate(record, store, [])
    changed = _validate(record, store, settings)
    table = find_table(name)
    before, after = config.stage_config(table), changed.stage_config(table)
    if settings and before.key_config() == after.key_config():
        raise ConfigError(f"these settings change nothing in {name}: {', '.join(settings)}; set keys of [{table}]")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pairmill-try-") as folder:
        temporary, notes = open_store(folder), list[str]()
        upstream = []
        if manifest is not None:
            sample = take_sample(store, manifest, rows, temporary)
            upstream, of_rows = [sample], manifest.counts.kept
        else:
            before, after, of_rows = _sample_source(before, after, record, notes)
        before, after = (_without_side_effects(one, notes) for one in (before, after))
        workers = min(config.execution.workers or count_cores(), 4)
        with shared_workers(Context(temporary, home, workers)) as context:
            outcomes = [
                _outcomes(make(plan(stage, one, changed.seed, upstream), context), temporary)
                for one in ([before, after] if settings else [before])
            ]
    first, last = outcomes[0], outcomes[-1]
    joined = _join(first, last)
    is_changed = pl.col("before") != pl.col("after")
    return Trial(
        name,
        record.run_id,
        upstream[0].counts.kept if upstream else len(first),
        of_rows,
        Counter(first["outcome"].to_list()),
        Counter(last["outcome"].to_list()),
        joined.filter(is_changed),
        joined.filter(~is_changed),
        tuple(dict.fromkeys(notes)),
        time.monotonic() - started,
    )


def _find_run(
    name: str, reads: str | None, home: Path, store_uri: str | None, run_id: str | None
) -> tuple[RunRecord, Store, Manifest | None]:
    """Return a run, its store, and the snapshot that the stage reads."""
    records = [load_run(run_id, home, store_uri)[0]] if run_id else list_runs(home, store_uri)[::-1]
    for record in records:
        key = record.key_of(reads or name)
        if key is None:
            continue
        store = load_run(record.run_id, home, store_uri)[1]
        if reads is None:
            return record, store, None
        if (manifest := find_manifest(store, reads, key)) is not None:
            return record, store, manifest
    where = run_id or "no run"
    raise ConfigError(
        f"{where} has {'not ' if run_id else ''}finished {reads or name}, of which the trial takes its sample; make it"
        f" with `pairmill run CONFIG --until {reads or name}`"
    )


def _validate(record: RunRecord, store: Store, settings: Sequence[str]) -> RunConfig:
    """Return the config of a run with settings applied."""
    values: dict[str, Any] = {**_copy(record.config), "store": {"uri": store.uri}}
    origins = {apply_setting(values, setting): "--set" for setting in settings}
    config, problems = validate_values(values)
    if config is None:
        raise ConfigError(format_problems(f"run {record.run_id}", problems, origins))
    return config


def _copy(value: Any) -> Any:
    """Return a copy without the values that are not set, which would be tables of other keys."""
    if isinstance(value, dict):
        return {name: _copy(inner) for name, inner in value.items() if inner is not None}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _sample_source(
    before: Any, after: Any, record: RunRecord, notes: list[str]
) -> tuple[StageConfig, StageConfig, int]:
    """Return both configs of extract with the smallest source file only, and the rows of the run."""
    for one in (before, after):
        if not isinstance(one, FilesSource):
            raise ConfigError("extract can be tried on a single source of files only (warc, wat or pairs)")
    local = [file for file in before.files(Context(open_store(record.config["store"]["uri"]), Path(), 1))]
    paths = sorted(
        (path for file in local if (path := getattr(file, "path", None)) is not None),
        key=lambda path: path.stat().st_size,
    )
    if not paths:
        raise ConfigError("extract can be tried on files of this machine only")
    notes.append(f"extract reads the smallest of its source files: {paths[0]}")
    changed = {"paths": [str(paths[0])]}
    counts = next(run.counts for run in record.stages if run.stage == "extract")
    return before.model_copy(update=changed), after.model_copy(update=changed), counts.input


def _without_side_effects(config: Any, notes: list[str]) -> Any:
    """Return a config that reads no other dataset, since a temporary store has none, and that asks no model."""
    if isinstance(config, CurateConfig) and (asking := [one.table for one in list_steps(config) if one.asks_model]):
        notes.extend(f"curate.{table} is left out: a trial asks no model" for table in asking)
        return config.model_copy(update=dict.fromkeys(asking))
    return config


def _outcomes(manifest: Manifest, store: Store) -> pl.DataFrame:
    """Return the outcome of each row: `kept`, or the reason why it was dropped."""
    frames = [pl.DataFrame(schema=dict.fromkeys([*_COLUMNS, "outcome"], pl.String))]
    for prefix in ("part-", "dropped-"):
        if (rows := read_parts(store, manifest, prefix)).num_rows:
            outcome = pl.col("drop_reason") if prefix == "dropped-" else pl.lit("kept")
            frames.append(pl.DataFrame(rows).select(pl.col(_COLUMNS), outcome.alias("outcome")).cast(pl.String))
    return pl.concat(frames)


def _join(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each row of both, with both outcomes, in the order of the uids. Repeated rows are counted."""
    repeated = pl.int_range(pl.len()).over("uid").alias("repetition")
    is_dropped = (pl.col("outcome") != "kept").alias("is_dropped")
    sides = [
        side.sort("uid", is_dropped, "outcome").with_columns(repeated).rename({"outcome": name})
        for side, name in ((before, "before"), (after, "after"))
    ]
    joined = sides[0].join(sides[1], on=["uid", "repetition"], how="full", coalesce=True)
    names = [pl.coalesce(name, f"{name}_right").alias(name) for name in ("url", "caption")]
    return (
        joined.with_columns(*names, pl.col("before", "after").fill_null("none"))
        .select(*_COLUMNS, "before", "after")
        .sort("uid", "before")
    )
