"""Later tries of a download's rows that failed by a class that may pass: in rounds, as further shards.

A row that is to be tried again is in no part of the shard that failed it, but in a scratch object,
`_work/again-<shard>.parquet`; the shards of the next round are cut from those. So each uid is in one part at the end.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa

from dataops.schema import FILTERED, conform
from dataops.snapshot import MANIFEST, Counts, Draft, Manifest, Record, find_manifest, read_table
from tasks.download import row_spans
from tasks.download.config import RetryConfig
from tasks.download.failure_classes import matches_class
from tasks.download.row_spans import RowSpan
from tasks.download.shard import shard_id
from tasks.download.summary import count_by_host, subtract_hosts
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.engine.stage import Plan

logger = logging.getLogger(__name__)

_RENAMED = re.compile(r"(.*?)(?:-r([0-9]+))?\.parquet")

REOPENED = "reopened"
"""The record of what is taken over when a complete snapshot's failed rows are tried again."""


def put_retry_rows(draft: Draft, name: str, rows: pa.Table) -> int:
    """Write the rows of a shard that a later round is to try; their number."""
    if rows.num_rows:
        draft.put_table(_retry_name(name), conform(rows, FILTERED, f"download {name}"))
    return rows.num_rows


def split_by_class(rows: pa.Table, classes: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """The rows whose `drop_reason` is one of the classes, and the others."""
    chosen = [matches_class(reason, classes) for reason in rows["drop_reason"].to_pylist()]
    return rows.filter(pa.array(chosen, pa.bool_())), rows.filter(pa.array([not yes for yes in chosen], pa.bool_()))


def _retry_name(name: str) -> str:
    return f"_work/again-{name}.parquet"


ShardCut = tuple[int, tuple[RowSpan, ...]]
"""A shard's index and its rows."""


def run_rounds(
    draft: Draft,
    rows: Sequence[tuple[str, int]],
    start: int,
    size: int,
    retry: RetryConfig,
    fetch: Callable[[list[ShardCut], int, tuple[str, ...]], list[Record]],
) -> list[Record]:
    """Fetch rows, and then those that failed by one of the classes again; the records of all shards, in order.

    Args:
        rows: Parquet objects with the rows of the first round, each with its number of rows.
        start: index of the first shard.
        size: rows a shard.
        fetch: makes shards of the given indices and rows in the round of a number, and leaves rows of the given classes
            for a later one.
    """
    records: list[Record] = []
    for number in range(retry.rounds + 1):
        cuts = list(enumerate(row_spans.cut_objects(rows, size), start))
        if not cuts:
            break
        if number and draft.done(shard_id(cuts[0][0])) is None:
            seconds, left = retry.delay * 2 ** (number - 1), sum(n for _, n in rows)
            logger.info(
                "download: %d rows are tried again in %g s (round %d of %d)", left, seconds, number, retry.rounds
            )
            time.sleep(seconds)
        made = fetch(cuts, number, retry.classes if number < retry.rounds else ())
        rows = [
            (draft.path(_retry_name(f"{index:05d}")), record.facts["again"])
            for (index, _), record in zip(cuts, made, strict=True)
        ]
        records += made
        start += len(cuts)
    return records


def reopen(planned: Plan, context: Context, classes: Sequence[str]) -> None:
    """Make a complete snapshot unfinished again: its rows that failed by one of the classes are all that is left to do.

    Nothing that was fetched is touched: only the `dropped-*` parts with such rows are written anew, without them. A kill
    at any moment leaves the old snapshot, or the unfinished new one. Where the snapshot is unfinished, or has no such row,
    nothing changes.

    Raises: ConfigError that names the run that makes it now, where one does.
    """
    draft = Draft(context.store, planned.stage.name, planned.key)
    with hold_lease(draft, context, wait=False, remake=True):
        manifest = find_manifest(draft.store, draft.stage, draft.key)
        if manifest is None:
            logger.info("download %s is unfinished: it goes on, and its failed rows have their rounds", draft.key)
            return
        record, replaced = _take_over(draft, manifest, classes)
        if not record.facts["rows"]:
            there = ", ".join(sorted(manifest.counts.dropped)) or "none"
            logger.warning("download %s: no row failed by %s; there are: %s", draft.key, ", ".join(classes), there)
            return
        draft.finish(record)
        draft.store.delete([draft.path(MANIFEST)])
        draft.store.delete([draft.path(name) for name in replaced])


def _take_over(draft: Draft, manifest: Manifest, classes: Sequence[str]) -> tuple[Record, list[str]]:
    """What stays of a snapshot, as one record, with the rows to be tried again; and the names of the replaced parts."""
    parts = [part for part in manifest.parts if not part.name.startswith("dropped-")]
    rows: list[tuple[str, int]] = []
    taken: list[pa.Table] = []
    replaced: list[str] = []
    for part in manifest.named("dropped-", ".parquet"):
        table = read_table(draft.store, manifest.path(part.name))
        mine, left = split_by_class(table, classes)
        if not mine.num_rows:
            parts.append(part)
            continue
        name = part.name.removesuffix(".parquet")
        rows.append((draft.path(_retry_name(name)), put_retry_rows(draft, name, mine)))
        taken.append(mine)
        parts.append(draft.put_table(_next_name(part.name), left))
        replaced.append(part.name)
    counts, hosts = manifest.counts, manifest.facts["hosts"]
    if taken:
        gone = pa.concat_tables(taken)
        still = Counter(counts.dropped) - Counter(gone["drop_reason"].to_pylist())
        counts = Counts(input=counts.input - gone.num_rows, kept=counts.kept, dropped=dict(sorted(still.items())))
        hosts = subtract_hosts(hosts, count_by_host(gone))
    facts = {"bytes": manifest.facts["bytes_fetched"], "hosts": hosts, "shards": manifest.facts["shards"], "rows": rows}
    return Record(task=REOPENED, parts=parts, counts=counts, facts=facts), replaced


def _next_name(part: str) -> str:
    """dropped-00003.parquet is written anew as dropped-00003-r1.parquet, and that as dropped-00003-r2.parquet."""
    found = _RENAMED.fullmatch(part)
    assert found is not None
    return f"{found[1]}-r{int(found[2] or 0) + 1}.parquet"
