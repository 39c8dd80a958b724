"""The download stage: the pictures of the pairs that the filter kept, through img2dataset behind a safe fetch.

A shard of rows is one task: img2dataset's own Downloader, Resizer and WebDataset writer fetch, resize and write it into
a temporary folder; what they wrote is checked row by row and then committed. Rows that failed by a class that may pass are
fetched again when all shards are done, in rounds, as further shards (tasks/download/rounds.py). For shard i there is

    {i:05d}.tar               samples {uid}.jpg, {uid}.json, {uid}.txt in the order of their uids
    part-{i:05d}.parquet      the rows whose picture is in the tar
    dropped-{i:05d}.parquet   the others, each with status, error_message and drop_reason
    evidence-{i:05d}.parquet  what the servers said of each row, which no digest covers
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dataops.errors import SourceError
from dataops.formatting import format_counts, format_share
from dataops.snapshot import Draft, Record
from tasks.download import summary
from tasks.download.config import DownloadConfig
from tasks.download.fetch.originals import Originals
from tasks.download.rounds import REOPENED, ShardCut, run_rounds
from tasks.download.shard import ShardTask
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.scratch_folders import scratch_folder
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.engine.takedown_requests import list_requests, load_targets

logger = logging.getLogger(__name__)


def make(work: Work[DownloadConfig]) -> StageOutput:
    """Download all shards, and what failed again in later rounds; of a snapshot that was reopened, only the latter.

    Raises: SourceError when less than `min_success` of the rows was fetched; what failed is then forgotten, so that the
    next try asks the servers again.
    """
    config = work.config
    draft, source = work.draft, work.inputs["filter"]
    rows = [(source.path(part.name), part.rows) for part in source.named("part-", ".parquet")]
    taken = load_targets(draft.store, list_requests(draft.store))
    records, start = [], 0
    if reopened := draft.done(REOPENED):
        records, rows, start = [reopened], reopened.facts["rows"], reopened.facts["shards"]

    with scratch_folder("site-files") as folder, shared_workers(work.context) as context:

        def fetch(cuts: list[ShardCut], number: int, again: tuple[str, ...]) -> list[Record]:
            workers = min(context.workers, len(cuts))
            shards = [ShardTask(index, cut, config, number, again, workers, taken, str(folder)) for index, cut in cuts]
            return map_parts(download_shard, shards, draft, context, format_record)

        fetched = run_rounds(draft, rows, start, config.shard_size, config.retry, fetch)
    if config.originals:
        Originals(Path(config.originals)).shrink(config.originals_bytes)
    records += fetched
    parts, counts = merge_records(records)
    hosts = summary.merge_hosts(record.facts["hosts"] for record in records)
    if counts.kept < config.min_success * counts.input:
        _delete_failed_shards(draft, fetched, config)
        raise SourceError(
            f"download: {counts.kept:,} of {counts.input:,} pictures were fetched, less than the share "
            f"{config.min_success:g} of download.min_success: check the network, then run again\n"
            f"{summary.format_failures(counts, hosts)}"
        )
    size = sum(record.facts["bytes"] for record in records)
    facts = {"shards": start + len(fetched), "samples": counts.kept, "bytes_fetched": size, "hosts": hosts}
    return StageOutput(parts, counts, facts)


def format_record(record: Record) -> str:
    """How one shard went, for people: reasons first, for the end of a line is what a narrow terminal shows."""
    counts, facts = record.counts, record.facts
    asked = counts.input + facts["again"]
    why = format_counts(Counter(counts.dropped).most_common())
    again = f"{facts['again']:,} to be tried again; " if facts["again"] else ""
    seconds = max(facts["seconds"], 0.001)
    speed = f"{asked / seconds:,.0f} images/s, {facts['bytes'] / seconds / 1e6:,.1f} MB/s"
    share = f"{format_share(counts.kept, max(asked, 1))} of {asked:,} fetched"
    return f"{record.task}: {why + '; ' if why else ''}{again}{share}, {speed}"


def _delete_failed_shards(draft: Draft, records: Sequence[Record], config: DownloadConfig) -> None:
    """Forget the shards of which too little was fetched, or that left rows to later rounds, and all of those rounds."""
    for record in records:
        counts, facts = record.counts, record.facts
        if facts["round"] or facts["again"] or counts.kept < config.min_success * counts.input:
            draft.store.delete(
                [draft.scratch(f"{record.task}.json"), *(draft.path(part.name) for part in record.parts)]
            )


def download_shard(draft: Draft, shard: ShardTask) -> Record:
    """Fetch, check and commit one shard; runs in a worker process, which alone loads img2dataset (and with it torch)."""
    from tasks.download.worker import download_shard

    return download_shard(draft, shard)


DOWNLOAD = Stage(name="download", version=3, make=make)
