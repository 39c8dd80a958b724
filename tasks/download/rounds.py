"""Cuts the rows of a download into shards, and retries rows with a temporary failure in rounds, as further shards.

A row that is to be retried is in no part of the shard that failed it, but in the scratch object
`_work/again-<shard>.parquet`; the shards of the next round are cut from these. So each uid is in exactly one part at
the end.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dataops.facts import DownloadFacts, FetchedShard, ReopenedShards
from dataops.formatting import format_quantity
from dataops.messages.waiting import pause
from dataops.schema import FILTERED, conform
from dataops.snapshot import MANIFEST, Counts, Draft, Manifest, Record, find_manifest, read_table
from dataops.store import Store
from dataops.trace.targets import Target
from tasks.download.config import DownloadConfig, RetryConfig, matches_class
from tasks.download.hooks import ShardHook, erased_reasons
from tasks.download.outcome import count_by_host, subtract_hosts
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.engine.stage import Plan

logger = logging.getLogger(__name__)

_PART_NAME = re.compile(r"(.*?)(?:-r([0-9]+))?\.parquet")

REOPENED = "reopened"
"""Task name of the record with everything that is kept when a complete snapshot is reopened to retry its failed
rows."""


@dataclass(frozen=True)
class RowSpan:
    """Rows start..stop of one Parquet object."""

    name: str
    start: int
    stop: int


def cut_parts(manifest: Manifest, size: int, prefix: str = "part-") -> list[tuple[RowSpan, ...]]:
    """Cut the parts `<prefix>*.parquet` into shards of `size` rows; the last one may be smaller."""
    return cut_objects([(manifest.path(p.name), p.rows) for p in manifest.named(prefix, ".parquet")], size)


def cut_objects(objects: Iterable[tuple[str, int]], size: int) -> list[tuple[RowSpan, ...]]:
    """Cut Parquet objects (name, number of rows) into shards of `size` rows; the last one may be smaller."""
    shards: list[tuple[RowSpan, ...]] = []
    current: list[RowSpan] = []
    free = size
    for name, rows in objects:
        start = 0
        while start < rows:
            stop = min(rows, start + free)
            current.append(RowSpan(name, start, stop))
            free -= stop - start
            start = stop
            if not free:
                shards.append(tuple(current))
                current, free = [], size
    return [*shards, tuple(current)] if current else shards


def read_spans(store: Store, spans: Sequence[RowSpan], columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one shard, in order."""
    tables = [read_table(store, s.name, columns).slice(s.start, s.stop - s.start) for s in spans]
    return pa.concat_tables(tables).combine_chunks()


@dataclass(frozen=True)
class ShardTask:
    """The rows of one shard, and how they are fetched."""

    index: int
    """Index of the shard, which names its tar and its parts."""
    spans: tuple[RowSpan, ...]
    config: DownloadConfig
    round: int = 0
    """0 for the first attempt of its rows."""
    retry_classes: tuple[str, ...] = ()
    """Failure classes whose rows are left for a later round."""
    workers: int = 1
    """Number of processes that share the limits for a host."""
    takedowns: tuple[Target, ...] = ()
    """Targets of takedown requests; rows that match them are not fetched."""
    hooks: tuple[ShardHook, ...] = ()
    """What plugins do with the images."""
    site_files: str | None = None
    """Folder that the processes share for robots.txt and similar files (tasks.web.host_state); default is a temporary
    one."""

    @property
    def id(self) -> str:
        return shard_id(self.index)

    def count_rows(self) -> int:
        """Return the number of its rows."""
        return sum(span.stop - span.start for span in self.spans)


def shard_id(index: int) -> str:
    """Return the id of the task that fetches a shard."""
    return f"shard-{index:05d}"


ShardCut = tuple[int, tuple[RowSpan, ...]]
"""Index and rows of a shard."""


def put_retry_rows(draft: Draft, name: str, rows: pa.Table) -> int:
    """Write the rows of a shard that a later round retries, and return their number."""
    if rows.num_rows:
        draft.put_table(_retry_name(name), conform(rows, FILTERED, f"download {name}"))
    return rows.num_rows


def split_by_class(rows: pa.Table, classes: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return the rows whose `drop_reason` matches one of the classes, and the others."""
    matched = [matches_class(reason, classes) for reason in rows["drop_reason"].to_pylist()]
    others = [not match for match in matched]
    return rows.filter(pa.array(matched, pa.bool_())), rows.filter(pa.array(others, pa.bool_()))


def _retry_name(name: str) -> str:
    return f"_work/again-{name}.parquet"


def run_rounds(
    draft: Draft,
    objects: Sequence[tuple[str, int]],
    start: int,
    size: int,
    retry: RetryConfig,
    fetch: Callable[[list[ShardCut], int, tuple[str, ...]], list[Record]],
) -> list[Record]:
    """Fetch rows, retry those that failed in rounds, and return the records of all shards in order.

    Args:
        objects: Parquet objects with the rows of the first round, each with its number of rows.
        start: index of the first shard.
        size: rows of a shard.
        fetch: fetches shards in the round of a number, and leaves failed rows of some classes for a later round.
    """
    records: list[Record] = []
    for number in range(retry.rounds + 1):
        cuts = list(enumerate(cut_objects(objects, size), start))
        if not cuts:
            break
        if number and draft.done(shard_id(cuts[0][0])) is None:
            seconds, rows = retry.delay * 2 ** (number - 1), sum(n for _, n in objects)
            logger.info("download: retrying %d rows in %g s (round %d of %d)", rows, seconds, number, retry.rounds)
            pause(seconds, f"{format_quantity(rows, 'image')} failed for now; retry {number} of {retry.rounds} follows")
        fetched = fetch(cuts, number, retry.classes if number < retry.rounds else ())
        objects = [
            (draft.path(_retry_name(f"{index:05d}")), FetchedShard.of(record).again)
            for (index, _), record in zip(cuts, fetched, strict=True)
        ]
        records += fetched
        start += len(cuts)
    return records


def reopen(planned: Plan, context: Context, classes: Sequence[str]) -> None:
    """Make a complete snapshot unfinished again, so that only its failed rows of some classes are left to do.

    The fetched images stay; only the `dropped-*` parts with such rows are rewritten, without them. A kill at any moment
    leaves the old snapshot or the new, unfinished one. If the snapshot is unfinished, or has no such row, nothing
    changes.

    Raises: ConfigError that names the other run, when one makes this snapshot at the moment.
    """
    draft = Draft(context.store, planned.stage.name, planned.key)
    with hold_lease(draft, context, wait=False, remake=True):
        manifest = find_manifest(draft.store, draft.stage, draft.key)
        if manifest is None:
            logger.info(
                "download %s is unfinished: the run resumes it, and retries its failed rows in rounds", draft.key
            )
            return
        record, replaced = _take_over(draft, manifest, classes)
        if not ReopenedShards.of(record).rows:
            reasons = ", ".join(sorted(manifest.counts.dropped)) or "none"
            wanted = ", ".join(classes)
            logger.warning("download %s: no row failed by %s; its drop reasons: %s", draft.key, wanted, reasons)
            return
        draft.finish(record)
        draft.store.delete([draft.path(MANIFEST)])
        draft.store.delete([draft.path(name) for name in replaced])


def _take_over(draft: Draft, manifest: Manifest, classes: Sequence[str]) -> tuple[Record, list[str]]:
    """Write the rows to be retried; return one record of what stays, and the names of the parts that are replaced."""
    parts = [part for part in manifest.parts if not part.name.startswith("dropped-")]
    objects: list[tuple[str, int]] = []
    tables: list[pa.Table] = []
    replaced: list[str] = []
    for part in manifest.named("dropped-", ".parquet"):
        retried, dropped = split_by_class(read_table(draft.store, manifest.path(part.name)), classes)
        if not retried.num_rows:
            parts.append(part)
            continue
        name = part.name.removesuffix(".parquet")
        objects.append((draft.path(_retry_name(name)), put_retry_rows(draft, name, retried)))
        tables.append(retried)
        parts.append(draft.put_table(_next_name(part.name), dropped))
        replaced.append(part.name)
    counts, facts = manifest.counts, DownloadFacts.of(manifest)
    hosts = facts.hosts
    if tables:
        retried = pa.concat_tables(tables)
        left = Counter(counts.dropped) - Counter(retried["drop_reason"].to_pylist())
        counts = Counts(input=counts.input - retried.num_rows, kept=counts.kept, dropped=dict(sorted(left.items())))
        hosts = subtract_hosts(hosts, count_by_host(retried))
    done = ReopenedShards(
        bytes=facts.bytes_fetched,
        hosts=hosts,
        shards=facts.shards,
        rows=objects,
        erased={reason: facts.further[reason] for reason in erased_reasons() if reason in facts.further},
    )
    return Record(task=REOPENED, parts=parts, counts=counts, facts=done.as_json()), replaced


def _next_name(part: str) -> str:
    """Return the name of a rewritten part: dropped-00003-r1.parquet for dropped-00003.parquet, then -r2, ..."""
    found = _PART_NAME.fullmatch(part)
    assert found is not None
    return f"{found[1]}-r{int(found[2] or 0) + 1}.parquet"
