"""The pack stage: the pairs that curate kept become the versioned dataset that training reads.

For shard i the snapshot holds

- `{i:05d}.tar`, with the samples `{key}.jpg`, `{key}.txt`, `{key}.json`;
- `{i:05d}.idx`, with the offset and size of each member;
- `part-{i:05d}.parquet`, with the rows.

The bytes of the images are those of the raw shards, never encoded again. The keys are those of the download (the uids),
so a member can be traced. Beside the shards lie `DATASET.md` and `dataset.html` (tasks/pack/card.py).

1. locate, a task per part of curate: find the span of each kept image in its raw shard.
2. cut, once over all rows: sort them by a hash of seed and uid, and choose where one shard ends and the next begins.
3. scatter, a task per part: partition its rows by training shard.
4. pack, a task per training shard: gather its rows, copy its images.

Pairs of recorded takedowns are dropped after the shards are cut, so shards without such pairs do not change. Where the
store has a version without the newest takedowns, its shards are reused (tasks/pack/rewrite.py).

The same rows and seed give the same bytes, whatever parts the rows came in.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from dataops.errors import ContractError
from dataops.formatting import format_counts
from dataops.snapshot import Counts, Draft, Manifest, Record
from dataops.trace.targets import Target
from tasks.engine.context import Context
from tasks.engine.exchange import Step, run
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.map_progress import StageProgress
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.engine.takedown_requests import list_requests, load_targets, select_requests
from tasks.pack.assign_shards import PackJob, PackStep, assign_shards, locate_images, write_rows_by_shard
from tasks.pack.card import find_lineage, put_pages
from tasks.pack.card_samples import Samples, sample_dropped, sample_kept
from tasks.pack.card_text import DatasetFacts
from tasks.pack.config import PackConfig
from tasks.pack.rewrite import find_earlier_version, list_shards, rewrite_shard
from tasks.pack.summary import merge
from tasks.pack.write_shard import TrainingShard, pack_shard

logger = logging.getLogger(__name__)

_PACK_WEIGHT = 6
"""Cost of writing the shards, relative to each map before it; for the progress."""


def make(work: Work[PackConfig]) -> StageOutput:
    """Pack all shards.

    Raises: ContractError, with the numbers of rows of each stage, if curate kept no pair.
    """
    if not work.inputs["curate"].counts.kept:
        counts = "; ".join(_format_manifest_counts(work.inputs[stage]) for stage in ("download", "curate"))
        raise ContractError(f"no pair is left to pack: {counts}")
    with shared_workers(work.context) as context:
        return _make(work, context)


def _make(work: Work[PackConfig], context: Context) -> StageOutput:
    takedowns = load_targets(work.draft.store, select_requests(work.made_of))
    base = find_earlier_version(work, PACK.version) if takedowns else None
    lineage = find_lineage(work)
    with ThreadPoolExecutor(1) as thread:  # it reads the examples of the page, while workers pack
        dropped = thread.submit(sample_dropped, work.draft.store, lineage, takedowns)
        if base is None:
            records = _pack_shards(work, context, takedowns)
        else:
            records = map_parts(rewrite_shard, list_shards(base, takedowns), work.draft, context)
        written, counts = merge_records(records)
        facts = _facts(work, records, counts, base)
        dataset = DatasetFacts.collect(work, counts, facts, written, lineage)
        kept = sample_kept(work.draft, written, work.inputs["download"].config["encode_format"])
        return StageOutput(written + put_pages(work.draft, dataset, Samples(kept, dropped.result())), counts, facts)


def _pack_shards(work: Work[PackConfig], context: Context, takedowns: tuple[Target, ...]) -> list[Record]:
    config, draft, progress = work.config, work.draft, StageProgress(context, 2 + _PACK_WEIGHT)
    download, curate = work.inputs["download"], work.inputs["curate"]
    parts = [curate.path(part.name) for part in curate.named("part-", ".parquet")]
    extension, folder = str(download.config["encode_format"]), download.path("").rstrip("/")
    job, quiet = PackJob(curate.counts.kept, len(parts), folder, extension, work.seed), context.without_progress()

    def map_over_parts(function: Callable[[Draft, PackStep], Record], name: str) -> None:
        units = [Step(function, number, job, (part,)) for number, part in enumerate(parts)]
        map_parts(run, units, draft, progress.of_map(name, 1))

    map_over_parts(locate_images, "locate images")
    map_parts(run, job.spans.merge_steps(), draft, quiet)
    job = replace(job, shards=assign_shards(draft, job, config.shard_size, config.shard_bytes))
    map_parts(run, job.positions.merge_steps(), draft, quiet)
    map_over_parts(write_rows_by_shard, "partition rows")
    map_parts(run, job.packed_rows.merge_steps(), draft, quiet)
    shards = [TrainingShard(index, job, takedowns) for index in range(job.shards)]
    return map_parts(pack_shard, shards, draft, progress.of_map("write shards", _PACK_WEIGHT))


def _facts(work: Work[PackConfig], records: Sequence[Record], counts: Counts, base: Manifest | None) -> dict[str, Any]:
    """Return the facts of the manifest. Raises: ContractError if takedowns removed all pairs."""
    if not counts.kept:
        raise ContractError(f"no pair is left to pack: all {counts.input:,} were taken down")
    size = sum(part.bytes for record in records for part in record.parts if part.name.endswith(".tar"))
    facts = {"samples": counts.kept, "shards": len(records), "bytes": size}
    facts |= merge(record.facts for record in records)
    if requests := select_requests(work.made_of):
        facts |= {"takedowns": [request.key for request in requests], "parent": base.key if base else None}
    return facts


def _format_manifest_counts(manifest: Manifest) -> str:
    counts = manifest.counts
    reasons = format_counts(Counter(counts.dropped).most_common())
    return f"{manifest.stage} kept {counts.kept:,} of {counts.input:,}" + (f" ({reasons})" if reasons else "")


PACK = Stage(name="pack", version=4, make=make, store_inputs=list_requests)
