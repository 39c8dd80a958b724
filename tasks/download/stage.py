"""Download the images of the pairs that the filter kept, through img2dataset behind a safe, polite fetch.

Rows are cut into shards by host (host_cut.py). A shard is one task: img2dataset's Downloader, Resizer and WebDataset writer
fetch, resize and write its images into a temporary folder; the result is checked row by row and then committed. When all
shards are done, rows with a temporary failure are retried in rounds, as further shards (tasks/download/rounds.py). Shard i
consists of

    {i:05d}.tar               samples {uid}.jpg, {uid}.json, {uid}.txt in the order of their uids
    part-{i:05d}.parquet      the rows whose image is in the tar
    dropped-{i:05d}.parquet   the others, each with status, error_message and drop_reason
    evidence-{i:05d}.parquet  the server's answer for each row, which no digest covers

and an index over the rows of all shards (tasks/search.py).
"""

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from dataops.digest import text_sha256
from dataops.facts import DownloadFacts, FetchedShard, ReopenedShards
from dataops.snapshot import Draft, Record
from dataops.trace.requests import list_requests, load_erased, load_targets
from tasks.download.config import DownloadConfig
from tasks.download.hooks import load_hooks, start_hooks
from tasks.download.outcome import explain_failure
from tasks.download.rounds import REOPENED, Objects, ShardCut, ShardTask, cut_objects, merge_facts, run_rounds
from tasks.engine.map_parts import TaskOrder, map_parts, shared_workers
from tasks.engine.map_progress import MapView, describe_fetched
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.search import write_index


def make(work: Work[DownloadConfig]) -> StageOutput:
    """Download all shards and retry failed rows in rounds; of a reopened snapshot, only the rounds are left.

    Raises: SourceError or ConfigError when less than `min_success` of the rows was fetched (see `explain_failure`); the
        failed shards are fetched again by a later run.
    """
    from tasks.download.host_cut import cut_by_host  # loads polars, which the workers of download_shard never use

    config, draft, source = work.config, work.draft, work.inputs["filter"]
    objects = [(source.path(part.name), part.rows) for part in source.named("part-", ".parquet")]
    takedowns = (*load_targets(draft.store, list_requests(draft.store)), *load_erased(draft.store))
    records, start = [], 0
    finished, further = draft.finished(), dict[str, Any]()
    recovered = () if finished else (hook.recover(work, objects) for hook in load_hooks().values())
    if reopened := finished.get(REOPENED) or next(filter(None, recovered), None):
        done = ReopenedShards.of(reopened)
        records, objects, start = [reopened], done.rows, done.shards
        further |= {"imported": done.imported} if done.imported else {}

    run, longest = work.context.run_id or uuid4().hex, dict[str, int]()
    with shared_workers(work.context) as context:
        hooks = start_hooks(work, context)

        def cut(objects: Objects, first: int, wave: int) -> list[ShardCut]:
            if "asks_no_host" in config.adapted:
                spans = enumerate(cut_objects(objects, config.shard_size), first)
                return [ShardCut(index, one) for index, one in spans]
            size, most = config.shard_size, config.max_host_rows
            cuts, found = cut_by_host(draft, objects, first, context, wave=wave, size=size, max_host_rows=most)
            longest.update(found if not wave else {})
            return cuts

        def fetch(cuts: list[ShardCut], round_: int, retry_classes: tuple[str, ...]) -> list[Record]:
            processes = config.processes_per_host(context.workers)
            state, alone = str(context.home / "hosts" / _digest_web(config)), len(cuts) == 1
            tasks = [
                ShardTask(one, config, round_, retry_classes, min(processes, one.chain_shards), takedowns, hooks,
                          state, run, alone)
                for one in cuts
            ]  # fmt: skip
            view = MapView(ShardTask.count_rows, describe_fetched)
            chain, seconds = (lambda task: task.cut.chain), (lambda task: task.cut.seconds)
            order = TaskOrder[ShardTask](chain, seconds, processes, ahead=1, copies=False)
            return map_parts(download_shard, tasks, draft, context, view, order)

        fetched = run_rounds(draft, objects, start, config.retry, cut, fetch)
        records += fetched
        parts, counts = merge_records(records)
        index = write_index(draft, [part for part in parts if part.name.startswith("part-")], context)
    total = merge_facts(records)
    further |= total.erased
    for hook in hooks:
        further |= hook.list_facts()
    facts = DownloadFacts(
        shards=start + len(fetched),
        samples=counts.kept,
        bytes_fetched=total.bytes,
        hosts=total.hosts,
        longest=longest,
        host_rate=config.host_rate,
        **further,
    )
    for hook in load_hooks().values():
        hook.finish(work, facts)
    if counts.kept < config.min_success * counts.input:
        _delete_failed_shards(draft, fetched, config)
        raise explain_failure(counts, facts.hosts, config)
    return StageOutput(parts + index, counts, facts)


def _digest_web(config: DownloadConfig) -> str:
    """Return a name for the web that a config sees: with other addresses, a host is another one."""
    return text_sha256(json.dumps(sorted(config.connect_to.items())))[:16]


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


DOWNLOAD = Stage(
    name="download",
    version=10,
    accepts=frozenset({9}),
    make=make,
    external_inputs=lambda config: config.inputs(),
    takes_over=lambda: any(hook.recovers for hook in load_hooks().values()),
)
