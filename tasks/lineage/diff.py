"""What one dataset has that another has not, and why: by the rows that each stage of the other dropped, and its settings.

Held in memory of each row of both are 24 bytes, and what differs; dropped rows are read a part at a time.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.funnel import PAIR_STAGES
from dataops.kernels.hashes import uid_halves
from dataops.snapshot import Manifest, ancestors
from dataops.store import Store

ABSENT = ("extract", "not_in_source")
"""Why, where no stage dropped a row: it never came in."""
UNKNOWN = ("", "unknown")
"""Why, where the snapshot that could tell is no longer in the store."""
KEY = ["high", "low"]
_BATCH = 1 << 16

Why = tuple[str, str]
"""A stage and its drop reason."""
Dataset = tuple[Manifest, Store]


@dataclass(frozen=True)
class Side:
    """What one of two datasets alone has."""

    rows: pl.DataFrame
    """`uid, url, caption, stage, reason`: why the other one lacks it."""

    @property
    def why(self) -> dict[Why, int]:
        """How many the other one lacks for which reason, most first."""
        counted = Counter[Why](self.rows.select("stage", "reason").iter_rows())
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Difference:
    """Of dataset B against dataset A."""

    common: int
    changed: int
    """Of the common ones those whose picture has other bytes."""
    added: Side
    removed: Side
    settings: dict[str, tuple[Any, Any]]
    """What the stages of A and of B were told differently, by `stage.field`."""


def compare_datasets(a: Dataset, b: Dataset) -> Difference:
    """What B has more and less than A. Both are of one stage over pairs."""
    keys_a, keys_b = _keys(*a), _keys(*b)
    both = keys_a.join(keys_b, on=KEY, how="inner")
    changed = int((both["picture"] != both["picture_right"]).sum())
    added, removed = Side(_lacking(b, a, keys_a)), Side(_lacking(a, b, keys_b))
    return Difference(both.height, changed, added, removed, _settings(a, b))


def _keys(manifest: Manifest, store: Store) -> pl.DataFrame:
    """The uid of each row as two numbers, and one that stands for the bytes of its picture."""
    empty = pl.DataFrame(schema=dict.fromkeys([*KEY, "picture"], pl.UInt64))
    frames = (
        rows.select(*KEY, picture=pl.col("sha256").hash() if "sha256" in rows.columns else pl.lit(0, pl.UInt64))
        for rows in _batches(manifest, store, "part-", ["uid", "sha256"])
    )
    return pl.concat([empty, *frames])


def _batches(manifest: Manifest, store: Store, prefix: str, columns: list[str]) -> Iterator[pl.DataFrame]:
    """Rows of the parts, a batch at a time: those of the columns that there are, and the two halves of the uid."""
    for part in manifest.named(prefix, ".parquet"):
        with store.open(manifest.path(part.name)) as file:
            parquet = pq.ParquetFile(file)
            there = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(_BATCH, columns=there):
                halves = uid_halves(batch["uid"].cast(pa.string()))
                frame = pl.DataFrame(pl.from_arrow(batch))
                yield frame.with_columns(pl.Series("high", halves[:, 0]), pl.Series("low", halves[:, 1]))


def _lacking(has: Dataset, lacks: Dataset, keys: pl.DataFrame) -> pl.DataFrame:
    """The rows that the first alone has, and why the other has them not.

    A uid may have left at several stages, as one of several rows and then as the last one: the latest is why.
    """
    columns = {"uid": pl.String, "url": pl.String, "caption": pl.String, "high": pl.UInt64, "low": pl.UInt64}
    frames = [
        rows.join(keys, on=KEY, how="anti").select(*columns)
        for rows in _batches(*has, "part-", ["uid", "url", "caption"])
    ]
    alone = pl.concat([pl.DataFrame(schema=columns), *frames]).unique(KEY, maintain_order=True)
    lineage = ancestors(lacks[1], lacks[0])
    why = _whys(alone, lineage, lacks[1])
    complete = all(stage in lineage for stage in PAIR_STAGES[: PAIR_STAGES.index(lacks[0].stage)])
    stage, reason = ABSENT if complete else UNKNOWN
    told = alone.join(why, on=KEY, how="left", maintain_order="left")
    return told.select(
        "uid", "url", "caption", pl.col("stage").fill_null(stage), pl.col("reason").fill_null(reason)
    ).sort("uid")


def _whys(alone: pl.DataFrame, lineage: Mapping[str, Manifest], store: Store) -> pl.DataFrame:
    columns = {"high": pl.UInt64, "low": pl.UInt64, "stage": pl.String, "reason": pl.String}
    found = pl.DataFrame(schema=columns)
    for stage in reversed(PAIR_STAGES):
        if stage in lineage:
            dropped = [
                rows.join(alone, on=KEY, how="semi").select(*KEY, stage=pl.lit(stage), reason="drop_reason")
                for rows in _batches(lineage[stage], store, "dropped-", ["uid", "drop_reason"])
            ]
            found = pl.concat([found, *dropped]).unique(KEY, keep="first", maintain_order=True)
    return found


def _settings(a: Dataset, b: Dataset) -> dict[str, tuple[Any, Any]]:
    ours, theirs = ancestors(a[1], a[0]), ancestors(b[1], b[0])
    found: dict[str, tuple[Any, Any]] = {}
    for stage in PAIR_STAGES:
        if stage in ours and stage in theirs:
            told = [
                _flat(m.config, stage) | {f"{stage}.seed": m.seed, f"{stage}.version": m.stage_version}
                for m in (ours[stage], theirs[stage])
            ]
            names = sorted({*told[0], *told[1]})
            found |= {n: (told[0].get(n), told[1].get(n)) for n in names if told[0].get(n) != told[1].get(n)}
    return found


def _flat(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}.{name}") if isinstance(value, Mapping) else {f"{prefix}.{name}": value}
    return flat
