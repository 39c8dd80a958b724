"""Download the images of the pairs that the filter kept, through img2dataset behind a safe, polite fetch.

A shard of rows is one task: img2dataset's Downloader, Resizer and WebDataset writer fetch, resize and write its images
into a temporary
folder; the result is checked row by row and then committed. When all shards are done, rows with a temporary
failure are retried in rounds, as further shards (tasks/download/rounds.py). Shard i consists of

    {i:05d}.tar               samples {uid}.jpg, {uid}.json, {uid}.txt in the order of their uids
    part-{i:05d}.parquet      the rows whose image is in the tar
    dropped-{i:05d}.parquet   the others, each with status, error_message and drop_reason
    evidence-{i:05d}.parquet  the server's answer for each row, which no digest covers
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dataops.facts import DownloadFacts, FetchedRows, FetchedShard, ReopenedShards
from dataops.snapshot import Draft, Record
from dataops.trace.requests import list_requests, load_erased, load_targets
from tasks.download.config import DownloadConfig
from tasks.download.hooks import load_hooks, start_hooks
from tasks.download.outcome import explain_failure, merge_hosts
from tasks.download.rounds import REOPENED, ShardCut, ShardTask, run_rounds
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.map_progress import MapView, describe_fetched
from tasks.engine.scratch_folders import scratch_folder
from tasks.engine.stage import Stage, StageOutput, Work, merge_records

logger = logging.getLogger(__name__)


def make(work: Work[DownloadConfig]) -> StageOutput:
    """Download all shards and retry failed rows in rounds; of a reopened snapshot, only the rounds are left.

    Raises: SourceError or ConfigError when less than `min_success` of the rows was fetched (see `explain_failure`); the
        failed shards are fetched again by a later run.
    """
    config, draft, source = work.config, work.draft, work.inputs["filter"]
    objects = [(source.path(part.name), part.rows) for part in source.named("part-", ".parquet")]
    takedowns = (*load_targets(draft.store, list_requests(draft.store)), *load_erased(draft.store))
    records, start = [], 0
    if reopened := draft.done(REOPENED):
        done = ReopenedShards.of(reopened)
        records, objects, start = [reopened], done.rows, done.shards

    with scratch_folder("site-files") as folder, shared_workers(work.context) as context:
        hooks = start_hooks(work, context)

        def fetch(cuts: list[ShardCut], round_: int, retry_classes: tuple[str, ...]) -> list[Record]:
            workers = min(context.workers, len(cuts))
            settings = (config, round_, retry_classes, workers, takedowns, hooks, str(folder))
            tasks = [ShardTask(index, spans, *settings) for index, spans in cuts]
            return map_parts(download_shard, tasks, draft, context, MapView(ShardTask.count_rows, describe_fetched))

        fetched = run_rounds(draft, objects, start, config.shard_size, config.retry, fetch)
    records += fetched
    parts, counts = merge_records(records)
    shards = [FetchedRows.of(record) for record in records]
    further = _sum_erased(shards)
    for hook in hooks:
        further |= hook.list_facts()
    facts = DownloadFacts(
        shards=start + len(fetched),
        samples=counts.kept,
        bytes_fetched=sum(shard.bytes for shard in shards),
        hosts=merge_hosts(shard.hosts for shard in shards),
        **further,
    )
    for hook in load_hooks().values():
        hook.finish(work, facts)
    if counts.kept < config.min_success * counts.input:
        _delete_failed_shards(draft, fetched, config)
        raise explain_failure(counts, facts.hosts, config)
    return StageOutput(parts, counts, facts)


def _sum_erased(shards: Sequence[FetchedRows]) -> dict[str, Any]:
    """Return the erased rows of all shards by drop reason and detail (count_erased)."""
    totals: dict[str, Counter[str]] = {}
    for shard in shards:
        for reason, counts in shard.erased.items():
            totals.setdefault(reason, Counter()).update(counts)
    return {reason: dict(sorted(counts.items())) for reason, counts in sorted(totals.items())}


def _delete_failed_shards(draft: Draft, records: Sequence[Record], config: DownloadConfig) -> None:
    """Delete the shards with too few fetched images or with rows for later rounds, and all shards of these rounds."""
    for record in records:
        counts, facts = record.counts, FetchedShard.of(record)
        if facts.round or facts.again or counts.kept < config.min_success * counts.input:
            names = [draft.path(part.name) for part in record.parts]
            draft.store.delete([draft.scratch(f"{record.task}.json"), *names])


def download_shard(draft: Draft, task: ShardTask) -> Record:
    """Fetch, check and commit one shard. Only worker processes call it, so only they load img2dataset."""
    from tasks.download import worker

    return worker.download_shard(draft, task)


DOWNLOAD = Stage(name="download", version=9, make=make, external_inputs=lambda config: config.inputs())
