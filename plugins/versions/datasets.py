"""Compare two datasets: the rows that only one of them has, why the other lacks each, and the settings that differ.

Memory holds 24 bytes for each row of both, and the rows that differ; dropped rows are read one part at a time.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from dataops.kernels.hashes import uid_halves
from dataops.parquet import open_parquet
from dataops.snapshot import Manifest, load_ancestors
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from dataops.trace.sources import key_sources_by_name

ABSENT = ("extract", "not_in_source")
"""Reason of a row that no stage dropped, because the source does not have it."""
UNKNOWN = ("", "unknown")
"""Reason of a row where a snapshot that may have dropped it is no longer in the store."""
KEY = ["high", "low"]
_BATCH = 1 << 16

Reason = tuple[str, str]
"""A stage and its drop reason."""
Dataset = tuple[Manifest, Store]


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


def compare_datasets(a: Dataset, b: Dataset) -> Difference:
    """Compare two snapshots of one stage over pairs."""
    keys_a, keys_b = _read_keys(*a), _read_keys(*b)
    both = keys_a.join(keys_b, on=KEY, how="inner")
    changed = int((both["image"] != both["image_right"]).sum())
    added, removed = Side(_missing_rows(b, a, keys_a)), Side(_missing_rows(a, b, keys_b))
    settings = compare_settings(load_ancestors(a[1], a[0]), load_ancestors(b[1], b[0]))
    return Difference(both.height, changed, added, removed, settings)


def _read_keys(manifest: Manifest, store: Store) -> pl.DataFrame:
    """Return `high, low, image` of each row: the uid as two numbers, and a hash of the image's sha256."""
    empty = pl.DataFrame(schema=dict.fromkeys([*KEY, "image"], pl.UInt64))
    frames = (
        rows.select(*KEY, image=pl.col("sha256").hash() if "sha256" in rows.columns else pl.lit(0, pl.UInt64))
        for rows in _read_batches(manifest, store, "part-", ["uid", "sha256"])
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
        for rows in _read_batches(*complete, "part-", ["uid", "url", "caption"])
    ]
    missing = pl.concat([pl.DataFrame(schema=columns), *frames]).unique(KEY, maintain_order=True)
    lineage = load_ancestors(lacking[1], lacking[0])
    reasons = _read_reasons(missing, lineage, lacking[1])
    known = all(stage in lineage for stage in PAIR_STAGES[: PAIR_STAGES.index(lacking[0].stage)])
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
