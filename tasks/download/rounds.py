"""Fetches the rows of a download in waves of shards, and retries rows with a temporary failure in rounds of further waves.

A row that is to be retried is in no part of the shard that failed it, but in the scratch object
`_work/again-<shard>.parquet`; the shards of the next round are cut from these. A row whose URL redirects to a host of
another task, or whose host takes too long for its shard, is in `_work/handed-<shard>.parquet`, from which the next wave of
the same round is cut. So each uid is in exactly one part at the end.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from dataops.facts import DownloadFacts, FetchedRows, FetchedShard, ReopenedShards
from dataops.formatting import format_quantity
from dataops.messages.waiting import pause
from dataops.schema import FILTERED, conform
from dataops.snapshot import INDEX, MANIFEST, Counts, Draft, Manifest, Record, find_manifest, read_table
from dataops.store import Store
from dataops.trace.targets import Target
from tasks.download.config import DownloadConfig, RetryConfig, matches_class
from tasks.download.hooks import ShardHook, erased_reasons
from tasks.download.outcome import DECLARED, TEXT, count_by_host, merge_hosts, split_by, subtract_hosts
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


def read_spans(store: Store, spans: Sequence[RowSpan]) -> pa.Table:
    """Return the rows of one shard, in order."""
    tables = [read_table(store, s.name).slice(s.start, s.stop - s.start) for s in spans]
    return pa.concat_tables(tables).combine_chunks()


HANDED = pa.schema(
    {
        "next_url": TEXT,  # URL that is requested instead of the row's own, after redirects to other hosts
        "hops": pa.int32(),  # number of these redirects
        "wait": pa.float64(),  # seconds of a row at its host, if it was handed on for them
        "opt_out": DECLARED,  # what earlier hosts declared
        "permissions": DECLARED,
        "state": pa.binary(),  # what is known of the host of the URL (HostState.export), on one row of each origin
        "limited": pa.bool_(),  # true: over `download.max_host_rows`
    }
)
"""Further columns of the rows that a shard is cut from."""
UNIT = pa.field("unit", pa.string())
"""Domain, or `//` and a host, whose rows no other running task has; empty for a row that requests no host."""


class ShardCut(NamedTuple):
    """The rows of one shard."""

    number: int
    """Number of the shard, which names its tar and its parts."""
    spans: tuple[RowSpan, ...]
    chain: str = ""
    """Name of the shards with rows of the same hosts; empty if its rows request no host."""
    chain_shards: int = 1
    seconds: float = 0.0
    """Time that it takes at least."""


@dataclass(frozen=True)
class ShardTask:
    """The rows of one shard, and how they are fetched."""

    cut: ShardCut
    config: DownloadConfig
    round: int = 0
    """0 for the first attempt of its rows."""
    retry_classes: tuple[str, ...] = ()
    """Failure classes whose rows are left for a later round."""
    processes: int = 1
    """Number of processes that may request images from the same hosts at a time."""
    takedowns: tuple[Target, ...] = ()
    """Targets of takedown requests; rows that match them are not fetched."""
    hooks: tuple[ShardHook, ...] = ()
    """What plugins do with the images."""
    host_state: str | None = None
    """Folder of the state of hosts on each machine (tasks.web.host_state); default is a temporary one."""
    run: str = ""
    """Name of the run, whose failures do not count in others."""
    alone: bool = True
    """True if no other task requests images at the same time, so that its redirects may lead to any host."""

    @property
    def id(self) -> str:
        return shard_id(self.cut.number)

    def count_rows(self) -> int:
        """Return the number of its rows."""
        return sum(span.stop - span.start for span in self.cut.spans)


def shard_id(index: int) -> str:
    """Return the id of the task that fetches a shard."""
    return f"shard-{index:05d}"


def put_later_rows(draft: Draft, kind: str, name: str, rows: pa.Table) -> int:
    """Write the rows of a shard that a later round (`again`) or wave (`handed`) fetches, and return their number."""
    if rows.num_rows:
        table = conform(rows, FILTERED, f"download {name}")
        for field in HANDED:
            if field.name in rows.column_names:
                table = table.append_column(field, rows[field.name])
        draft.put_table(later_name(kind, name), table)
    return rows.num_rows


def split_by_class(rows: pa.Table, classes: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return the rows whose `drop_reason` matches one of the classes, and the others."""
    return split_by(rows, lambda reason: matches_class(reason, classes))


def later_name(kind: str, name: str) -> str:
    """Return the name of the scratch object that `put_later_rows` writes."""
    return f"_work/{kind}-{name}.parquet"


Objects = Sequence[tuple[str, int]]
"""Parquet objects, each with its number of rows."""


def run_rounds(
    draft: Draft,
    objects: Objects,
    start: int,
    retry: RetryConfig,
    cut: Callable[[Objects, int, int], list[ShardCut]],
    fetch: Callable[[list[ShardCut], int, tuple[str, ...]], list[Record]],
) -> list[Record]:
    """Fetch rows, retry those that failed in rounds, and return the records of all shards in order.

    Args:
        objects: the rows of the first round.
        start: index of the first shard.
        cut: returns the shards of rows, by the index of the first one and the number of the wave.
        fetch: fetches shards in the round of a number, and leaves failed rows of some classes for a later round.
    """
    records: list[Record] = []
    wave = 0
    for number in range(retry.rounds + 1):
        waiting, again = objects, list[tuple[str, int]]()
        while waiting:
            cuts = cut(waiting, start + len(records), wave)
            if number and waiting is objects and draft.done(shard_id(cuts[0].number)) is None:
                _pause(retry, number, sum(n for _, n in objects))
            fetched = fetch(cuts, number, retry.classes if number < retry.rounds else ())
            facts = [(f"{one.number:05d}", FetchedShard.of(record)) for one, record in zip(cuts, fetched, strict=True)]
            again += [(draft.path(later_name("again", name)), one.again) for name, one in facts if one.again]
            waiting = [(draft.path(later_name("handed", name)), one.handed) for name, one in facts if one.handed]
            records += fetched
            wave += 1
        objects = again
    return records


def _pause(retry: RetryConfig, number: int, rows: int) -> None:
    seconds = retry.delay * 2 ** (number - 1)
    logger.info("download: retrying %d rows in %g s (round %d of %d)", rows, seconds, number, retry.rounds)
    pause(seconds, f"{format_quantity(rows, 'image')} failed for now; retry {number} of {retry.rounds} follows")


def merge_facts(records: Iterable[Record]) -> FetchedRows:
    """Return the facts of several shards as those of one."""
    shards, erased = [FetchedRows.of(record) for record in records], dict[str, Counter[str]]()
    for shard in shards:
        for reason, counts in shard.erased.items():
            erased.setdefault(reason, Counter()).update(counts)
    return FetchedRows(
        bytes=sum(shard.bytes for shard in shards),
        hosts=merge_hosts(shard.hosts for shard in shards),
        erased={reason: dict(sorted(counts.items())) for reason, counts in sorted(erased.items())},
    )


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
        record, replaced = take_over(draft, manifest, classes)
        if not ReopenedShards.of(record).rows:
            reasons = ", ".join(sorted(manifest.counts.dropped)) or "none"
            wanted = ", ".join(classes)
            logger.warning("download %s: no row failed by %s; its drop reasons: %s", draft.key, wanted, reasons)
            return
        draft.finish(record)
        draft.store.delete([draft.path(MANIFEST)])
        draft.store.delete([draft.path(name) for name in replaced])


def take_over(draft: Draft, manifest: Manifest, classes: Sequence[str]) -> tuple[Record, list[str]]:
    """Write the rows to be retried; return one record of what stays, and the names of the parts that are replaced."""
    parts = [part for part in manifest.parts if not part.name.startswith(("dropped-", INDEX))]
    objects: list[tuple[str, int]] = []
    tables: list[pa.Table] = []
    replaced: list[str] = []
    for part in manifest.named("dropped-", ".parquet"):
        retried, dropped = split_by_class(read_table(draft.store, manifest.path(part.name)), classes)
        if not retried.num_rows:
            parts.append(part)
            continue
        name = part.name.removesuffix(".parquet")
        objects.append((draft.path(later_name("again", name)), put_later_rows(draft, "again", name, retried)))
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
        imported=facts.imported,
        erased={reason: facts.further[reason] for reason in erased_reasons() if reason in facts.further},
    )
    return Record(task=REOPENED, parts=parts, counts=counts, facts=done.as_json()), replaced


def _next_name(part: str) -> str:
    """Return the name of a rewritten part: dropped-00003-r1.parquet for dropped-00003.parquet, then -r2, ..."""
    found = _PART_NAME.fullmatch(part)
    assert found is not None
    return f"{found[1]}-r{int(found[2] or 0) + 1}.parquet"
