"""Cut the rows of a download into shards by host, so that one task at a time requests images from a host.

    rows      by the hash of their registered domain   partitions of about a million rows (tasks.engine.exchange)
    domains   with few rows                            together in one shard; no other shard has a row of them
    hosts     with many rows                           a chain of shards, of which each has a share of their rows; the
                                                       next one starts when the one before is done

A domain of the Public Suffix List is cut into its hosts where it has more rows than a shard. A chain has as many hosts as
keep a worker busy while the longest of them is asked at its pace. The cut depends on the rows alone: not on workers, nor on
anything that only decides how fast images are requested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from dataops.formatting import rank_counts
from dataops.schema import FILTERED, conform
from dataops.snapshot import Draft, Record
from dataops.web.urls import HOST, find_registrable_domain
from tasks.download.rounds import HANDED, UNIT, RowSpan, ShardCut, cut_objects, read_spans
from tasks.engine.context import Context
from tasks.engine.exchange import Exchange, Step, run_steps

IMAGES_PER_SECOND = 100.0
"""Images that a worker fetches and resizes in a second, about. Source: plugins/corpus_plan/costs.json, 109 on one core."""
INTERVAL = 0.05
"""Seconds between two requests to a host that asks for no longer ones, as with the default of `download.host_rate`."""
_BATCH_ROWS, PARTITION_ROWS = 1 << 18, 1 << 20
_ROW_BYTES, _MEMORY_BYTES = 600, 1 << 30
LONGEST = 20
"""Number of hosts with the most rows that a partition lists."""


class Unit(NamedTuple):
    """A domain or host whose rows one task at a time requests."""

    name: str
    rows: int
    interval: float = INTERVAL
    """Seconds between two requests."""

    @property
    def seconds(self) -> float:
        """Return the time that its rows take at least."""
        return self.rows * self.interval


class Bundle(NamedTuple):
    """Units whose rows lie in the same shards."""

    units: tuple[Unit, ...]
    shards: int

    @property
    def seconds(self) -> float:
        """Return the time that its shards take, one after the other."""
        rows = sum(unit.rows for unit in self.units)
        return max(rows / IMAGES_PER_SECOND, max((unit.seconds for unit in self.units), default=0.0))


def bundle_units(units: Sequence[Unit], size: int) -> list[Bundle]:
    """Return the units in bundles: those with few rows fill single shards, those that take long become chains.

    Args:
        size: maximum rows of a shard.
    """
    if sum(unit.rows for unit in units) <= size:
        return [Bundle(tuple(units), 1)] if units else []
    limit = size / 120  # a unit below it takes less time than fetching the other rows of its shard
    bundles, free = list[list[Unit]](), 0
    for unit in sorted(unit for unit in units if unit.seconds < limit and unit.rows <= size):
        if unit.rows > free:
            bundles.append([])
            free = size
        bundles[-1].append(unit)
        free -= unit.rows
    chains = [Bundle(tuple(bundle), 1) for bundle in bundles]
    left = sorted((unit for unit in units if unit.seconds >= limit or unit.rows > size), key=lambda u: (-u.seconds, u))
    while left:  # with the longest one, the longest of the others that leave its worker time for its own requests
        chosen, rest = [left[0]], list[Unit]()
        free = left[0].seconds * IMAGES_PER_SECOND - left[0].rows
        for unit in left[1:]:
            if unit.rows <= free:
                chosen.append(unit)
                free -= unit.rows
            else:
                rest.append(unit)
        chains.append(Bundle(tuple(chosen), math.ceil(sum(unit.rows for unit in chosen) / size)))
        left = rest
    return chains


@dataclass(frozen=True)
class HostJob:
    """The cut of the rows of one wave of a download.

    Attributes:
        wave: number of the wave.
        size: maximum rows of a shard.
        max_host_rows: maximum number of images that are requested from one host; rows of further images are refused.
    """

    wave: int
    rows: int
    writers: int
    size: int
    max_host_rows: int | None = None

    @property
    def layout(self) -> str:
        """Return what the scratch objects depend on."""
        return f"{self.wave}-{self.rows}-{self.size}"

    @property
    def exchange(self) -> Exchange:
        """Return the exchange that brings the rows of a domain together."""
        partitions = max(1, math.ceil(self.rows / PARTITION_ROWS))
        return Exchange(f"hosts-{self.layout}", self.writers, partitions, self.rows * _ROW_BYTES, _MEMORY_BYTES)


def cut_by_host(
    draft: Draft,
    objects: Sequence[tuple[str, int]],
    start: int,
    context: Context,
    *,
    wave: int,
    size: int,
    max_host_rows: int | None = None,
) -> tuple[list[ShardCut], dict[str, int]]:
    """Return the shards of the rows of Parquet objects (name, number of rows), and the hosts with the most rows.

    Args:
        start: index of the first shard.
    """
    rows = sum(number for _, number in objects)
    batches = cut_objects(objects, _BATCH_ROWS)
    job = HostJob(wave, rows, len(batches), size, max_host_rows)
    quiet = context.without_progress()
    exchange = job.exchange
    run_steps([Step(put_by_domain, number, job, spans) for number, spans in enumerate(batches)], rows, draft, quiet)
    run_steps(exchange.merge_steps(), rows, draft, quiet)
    steps = [Step(write_shards, number, job) for number in range(exchange.partitions)]
    cuts, longest = list[ShardCut](), dict[str, int]()
    for record in run_steps(steps, rows, draft, quiet):
        longest |= record.facts["longest"]
        for part, (chain, shards, seconds) in zip(record.parts, record.facts["shards"], strict=True):
            spans = (RowSpan(draft.path(part.name), 0, part.rows),)
            cuts.append(ShardCut(start + len(cuts), spans, chain, shards, seconds))
    ranked = rank_counts(longest)
    return cuts, dict(ranked[:LONGEST])


def put_by_domain(draft: Draft, step: Step[HostJob]) -> None:
    """Write some rows to the partition of their registered domain; rows without a host are distributed evenly."""
    table = read_spans(draft.store, step.inputs)
    for field in HANDED:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    rows = pl.DataFrame(pl.from_arrow(table))
    url = pl.coalesce("next_url", "url").str.to_lowercase()
    hosts = rows.select(url.str.extract(HOST, 1).str.strip_chars("[]").fill_null("").alias("host"))["host"]
    known = {host: find_registrable_domain(host) if host else "" for host in hosts.unique().to_list()}
    domains = hosts.replace_strict(known, return_dtype=pl.String) if known else hosts
    exchange = step.job.exchange
    digests = {domain: xxh3_64_intdigest(domain.encode()) for domain in {*known.values()}}
    names = zip(domains.to_list(), rows["uid"].to_list(), strict=True)
    numbers = [(digests[name] if name else int(uid[:16], 16)) % exchange.partitions for name, uid in names]
    exchange.write(draft, step.number, rows.with_columns(host=hosts, domain=domains), np.array(numbers, np.uint32))


def write_shards(draft: Draft, step: Step[HostJob]) -> Record:
    """Write the rows of each shard of a partition."""
    job = step.job
    rows = job.exchange.read(draft, step.number).drop("part").sort("uid")
    if job.max_host_rows is not None:
        rows = rows.with_columns(limited=_over_limit(rows, job.max_host_rows))
    asked = (pl.col("host") != "") & ~pl.col("limited").fill_null(False)
    many = pl.len().over("domain") > job.size
    unit = pl.when(~asked).then(pl.lit("")).when(many).then("//" + pl.col("host")).otherwise("domain")
    rows = rows.with_columns(unit.alias(UNIT.name), interval=pl.col("wait").fill_null(INTERVAL).clip(INTERVAL))
    counted = rows.filter(pl.col(UNIT.name) != "").group_by(UNIT.name).agg(pl.len(), pl.col("interval").max())
    bundles = bundle_units([Unit(*row) for row in counted.sort(UNIT.name).rows()], job.size)
    parts, shards = [], []
    for number, bundle in enumerate(bundles):
        chain = f"{job.layout}-{step.number:05d}-{number:05d}"
        names = [unit.name for unit in bundle.units]
        mine = rows.filter(pl.col(UNIT.name).is_in(names))
        # The rows of each unit are dealt evenly to the shards of the chain.
        position = ((pl.int_range(pl.len()) + 0.5) / pl.len()).over(UNIT.name)
        dealt = mine.with_columns(position=position).sort("position", "uid")
        for shard, some in enumerate(dealt.iter_slices(math.ceil(dealt.height / bundle.shards))):
            parts.append(_put_rows(draft, f"{chain}-{shard:05d}", some))
            shards.append((chain, bundle.shards, round(bundle.seconds / bundle.shards, 3)))
    others = rows.filter(pl.col(UNIT.name) == "")
    for number, first in enumerate(range(0, others.height, job.size)):
        parts.append(
            _put_rows(draft, f"{job.layout}-{step.number:05d}-others-{number:05d}", others.slice(first, job.size))
        )
        shards.append(("", 1, parts[-1].rows / IMAGES_PER_SECOND))
    hosts = rows.filter(asked).group_by("host").len().sort(["len", "host"], descending=[True, False]).head(LONGEST)
    return Record(task=step.id, parts=parts, facts={"shards": shards, "longest": dict(hosts.rows())})


def _over_limit(rows: pl.DataFrame, most: int) -> pl.Series:
    """Return whether the image of each row is beyond the first ones of its host, in the order of their smallest uids."""
    first = rows.select("host", "url", pl.col("uid").min().over("host", "url").alias("first"))
    return first.select((pl.col("first").rank("dense").over("host") > most) & (pl.col("host") != ""))["first"]


def _put_rows(draft: Draft, name: str, rows: pl.DataFrame) -> Any:
    table = rows.to_arrow()
    kept = conform(table, FILTERED, f"download {name}")
    for field in (*HANDED, UNIT):
        kept = kept.append_column(field, table[field.name].cast(field.type))
    return draft.put_table(f"_work/rows-{name}.parquet", kept)
