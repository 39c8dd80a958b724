"""Compare two datasets: the rows that only one of them has, why the other lacks each, and the settings that differ.

Memory holds 24 bytes for each row of both, and the rows that differ; dropped rows are read one part at a time.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.kernels.hashes import uid_halves
from dataops.parquet import open_parquet
from dataops.redaction import redact
from dataops.snapshot import Manifest, load_ancestors, load_manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from dataops.trace.sources import key_sources_by_name
from flows.records import load_manifests, read_record
from tasks.growth.versions import Version, find_packs, list_history
from tasks.reports.page import shorten

SETTING_LENGTH = 200
"""Maximum number of characters that are shown of a setting."""
ABSENT = ("extract", "not_in_source")
"""Reason of a row that no stage dropped, because the source does not have it."""
UNKNOWN = ("", "unknown")
"""Reason of a row where a snapshot that may have dropped it is no longer in the store."""
KEY = ["high", "low"]
_BATCH = 1 << 16

Reason = tuple[str, str]
"""A stage and its drop reason."""


@dataclass(frozen=True)
class Dataset:
    """A snapshot of pairs, or several that are one dataset."""

    name: str
    stage: str
    parts: Sequence[Manifest]
    lineages: Sequence[Mapping[str, Manifest]]
    """Of the runs that made it, newest first: their snapshots by stage."""
    store: Store

    @property
    def pairs(self) -> int:
        """Number of its pairs."""
        return sum(part.counts.kept for part in self.parts)


def of_snapshot(manifest: Manifest, store: Store) -> Dataset:
    """Return a snapshot as a dataset."""
    return Dataset(manifest.key, manifest.stage, [manifest], [load_ancestors(store, manifest)], store)


def of_version(version: Version, store: Store) -> Dataset:
    """Return a version of a dataset that grows, with the snapshots of runs that added no pair."""
    packs, lineages = find_packs(store, version), list[Mapping[str, Manifest]]()
    for pack in reversed(packs):
        curates = (load_manifest(store, "curate", one.key) for one in pack.inputs if one.stage == "curate")
        lineages += [{**(load_ancestors(store, curate) if curate else {}), "pack": pack} for curate in curates]
    for one in list_history(store, version):
        if not one.new and one.run_id:
            record = read_record(store, f"runs/{one.run_id}.json")
            lineages.append({manifest.stage: manifest for manifest in load_manifests(record, store)})
    return Dataset(version.name, "pack", packs, lineages, store)


@dataclass(frozen=True)
class Side:
    """The rows that only one of two datasets has."""

    rows: pl.DataFrame
    """`uid, url, caption, stage, reason`: the last two name why the other dataset lacks the row."""

    @property
    def why(self) -> dict[Reason, int]:
        """Number of rows by reason, most frequent first."""
        counted = Counter[Reason](self.rows.select("stage", "reason").iter_rows())
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))

    def as_json(self) -> dict[str, Any]:
        """Return the number of rows, and of each reason."""
        why = [{"stage": stage, "reason": reason, "rows": number} for (stage, reason), number in self.why.items()]
        return {"rows": self.rows.height, "why": why}


@dataclass(frozen=True)
class Difference:
    """The difference of dataset B from dataset A."""

    common: int
    changed: int
    """Number of common rows whose image has other bytes."""
    added: Side
    removed: Side
    settings: dict[str, tuple[Any, Any]]
    """Settings of the stages of A and of B that differ, by `stage.field`."""

    def count(self) -> dict[str, Any]:
        """Return the numbers of pairs as JSON values."""
        sides = {"added": self.added.as_json(), "removed": self.removed.as_json()}
        return {"common": self.common, "changed": self.changed, **sides}


def compare_datasets(a: Dataset, b: Dataset) -> Difference:
    """Compare two datasets of one stage."""
    keys_a, keys_b = _read_keys(a), _read_keys(b)
    both = keys_a.join(keys_b, on=KEY, how="inner")
    changed = int((both["image"] != both["image_right"]).sum())
    added, removed = Side(_missing_rows(b, a, keys_a)), Side(_missing_rows(a, b, keys_b))
    settings = compare_settings(a.lineages[0], b.lineages[0])
    return Difference(both.height, changed, added, removed, settings)


def compare_snapshots(store: Store, a: Manifest, b: Manifest) -> Difference:
    """Compare two snapshots of one stage."""
    return compare_datasets(of_snapshot(a, store), of_snapshot(b, store))


def _read_keys(dataset: Dataset) -> pl.DataFrame:
    """Return `high, low, image` of each row: the uid as two numbers, and a hash of the image's sha256."""
    empty = pl.DataFrame(schema=dict.fromkeys([*KEY, "image"], pl.UInt64))
    frames = (
        rows.select(*KEY, image=pl.col("sha256").hash() if "sha256" in rows.columns else pl.lit(0, pl.UInt64))
        for part in dataset.parts
        for rows in _read_batches(part, dataset.store, "part-", ["uid", "sha256"])
    )
    return pl.concat([empty, *frames])


def _read_batches(manifest: Manifest, store: Store, prefix: str, columns: list[str]) -> Iterator[pl.DataFrame]:
    """Yield those of the columns that the parts have, and `high, low`, a batch at a time."""
    for part in manifest.named(prefix, ".parquet"):
        name = manifest.path(part.name)
        with store.open(name) as file, open_parquet(file, f"{store.uri}/{name}") as parquet:
            present = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(_BATCH, columns=present):
                halves = uid_halves(batch["uid"].cast(pa.string()))
                frame = pl.DataFrame(pl.from_arrow(batch))
                yield frame.with_columns(pl.Series("high", halves[:, 0]), pl.Series("low", halves[:, 1]))


def _missing_rows(complete: Dataset, lacking: Dataset, keys: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the first dataset that the second lacks, with the reasons.

    Several rows may share a uid and be dropped at several stages: the reason is that of the latest stage.

    Args:
        keys: those of `lacking`.
    """
    columns = {"uid": pl.String, "url": pl.String, "caption": pl.String, "high": pl.UInt64, "low": pl.UInt64}
    frames = [
        rows.join(keys, on=KEY, how="anti").select(*columns)
        for part in complete.parts
        for rows in _read_batches(part, complete.store, "part-", ["uid", "url", "caption"])
    ]
    missing = pl.concat([pl.DataFrame(schema=columns), *frames]).unique(KEY, maintain_order=True)
    found = [_read_reasons(missing, lineage, lacking.store) for lineage in lacking.lineages]
    stages = {stage: number for number, stage in enumerate(PAIR_STAGES)}
    latest = pl.concat(found).sort(pl.col("stage").replace_strict(stages, return_dtype=pl.Int32), descending=True)
    reasons = latest.unique(KEY, keep="first", maintain_order=True)
    needed = PAIR_STAGES[: PAIR_STAGES.index(lacking.stage)]
    whole = [lineage for lineage in lacking.lineages if lacking.stage in lineage]
    known = all(stage in lineage for lineage in whole for stage in needed)
    stage, reason = ABSENT if known else UNKNOWN
    explained = missing.join(reasons, on=KEY, how="left", maintain_order="left")
    return explained.select(
        "uid", "url", "caption", pl.col("stage").fill_null(stage), pl.col("reason").fill_null(reason)
    ).sort("uid")


def _read_reasons(missing: pl.DataFrame, lineage: Mapping[str, Manifest], store: Store) -> pl.DataFrame:
    columns = {"high": pl.UInt64, "low": pl.UInt64, "stage": pl.String, "reason": pl.String}
    found = pl.DataFrame(schema=columns)
    for stage in reversed(PAIR_STAGES):
        if stage in lineage:
            dropped = [
                rows.join(missing, on=KEY, how="semi").select(*KEY, stage=pl.lit(stage), reason="drop_reason")
                for rows in _read_batches(lineage[stage], store, "dropped-", ["uid", "drop_reason"])
            ]
            found = pl.concat([found, *dropped]).unique(KEY, keep="first", maintain_order=True)
    return found


def compare_settings(
    a: Mapping[str, Manifest], b: Mapping[str, Manifest], stages: Sequence[str] = PAIR_STAGES
) -> dict[str, tuple[Any, Any]]:
    """Return the settings of A and of B that differ, by `stage.field`, of those of the stages that both have."""
    found: dict[str, tuple[Any, Any]] = {}
    for stage in stages:
        if stage in a and stage in b:
            ours, theirs = (
                _flatten(key_sources_by_name(m.config), stage)
                | {f"{stage}.seed": m.seed, f"{stage}.version": m.stage_version}
                for m in (a[stage], b[stage])
            )
            names = sorted({*ours, *theirs})
            found |= {n: (ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)}
    return found


def _flatten(config: Mapping[str, object], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flatten(value, f"{prefix}.{name}") if isinstance(value, Mapping) else {f"{prefix}.{name}": value}
    return flat


def describe_settings(settings: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Return a line for each setting of A and of B that differs, without credentials."""
    return [f"{name}: {_format_setting(a)} in A, {_format_setting(b)} in B" for name, (a, b) in settings.items()]


def _format_setting(value: object) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(redact(text), SETTING_LENGTH)
