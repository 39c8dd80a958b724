"""The pack stage: the pairs that curate kept become the versioned dataset that training reads.

For shard i the snapshot holds

- `{i:05d}.tar`, with the samples `{key}.jpg`, `{key}.txt`, `{key}.json`;
- `{i:05d}.idx`, with the offset and size of each member;
- `part-{i:05d}.parquet`, with the rows.

An index over all rows (tasks/search.py) finds the shards that a takedown or a trace concerns.

The bytes of the images are those of the raw shards, never encoded again. The keys are those of the download (the uids),
so a member can be traced. Beside the shards lie `DATASET.md` and `dataset.html` (tasks/pack/card.py).

1. rows, a task per group of parts of curate: find each kept image in its raw shard, and write the rows (and the images,
   unless the store is a folder) as a run, sorted by a hash of seed and uid.
2. merge, only for large datasets: a task per group of runs and coarse partition of the hashes.
3. cut, once over the keys of all rows: choose where one shard ends and the next begins.
4. shard, a task per group of training shards: read their rows and images from the runs.

`choose_layout` (tasks/pack/sorted_runs.py) chooses the passes and sizes.

Pairs of recorded takedowns are dropped after the shards are cut, so shards without such pairs do not change. Where the
store has a version without the newest takedowns, its shards are reused (tasks/pack/rewrite.py).

The same rows and seed give the same bytes, whatever parts the rows came in.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataops import plugins
from dataops.errors import ContractError, NothingLeft
from dataops.facts import PackFacts
from dataops.formatting import format_counts
from dataops.schema import CURATED
from dataops.snapshot import INDEX, Draft, Manifest, Part, Record
from dataops.text.tallies import Tally
from dataops.trace.lineages import merge_lineages
from dataops.trace.requests import load_erased, load_targets, select_requests
from dataops.trace.sources import list_named_sources
from dataops.trace.targets import Target
from tasks.engine.context import Context
from tasks.engine.exchange import group_units
from tasks.engine.map_parts import map_parts, shared_workers
from tasks.engine.map_progress import StageProgress
from tasks.engine.stage import Stage, StageOutput, Work, merge_records
from tasks.lists.locations import OPT_OUT_LIST, select_lists
from tasks.lists.opt_outs import NO_LISTS, StoredLists, put_lists, read_inputs, recall_lists
from tasks.pack.card import find_lineages, put_pages
from tasks.pack.card_samples import Samples, sample_dropped, sample_kept
from tasks.pack.card_text import DatasetFacts
from tasks.pack.config import PackConfig
from tasks.pack.cut_shards import CutShard, cut_shards
from tasks.pack.make_runs import CuratedParts, MergedRuns, merge_runs, number_of, run_names, write_runs
from tasks.pack.rewrite import Rewritten, find_earlier_version, rewrite
from tasks.pack.sorted_runs import ROW_BYTES, RunSet, SortLayout, choose_layout
from tasks.pack.summary import SOURCES, add_tallies, count_sources, merge, write_totals
from tasks.pack.write_shard import TrainingShards, pack_shards
from tasks.search import list_applied, write_index

LISTS_KEY = "filter.opt_out_lists or pack.opt_out_lists"
"""Keys of the config whose lists apply, for messages."""
IMAGES_SHARE = 0.75
"""Share of the memory that the images take; the rest is for their rows and the requests."""
SAMPLED = 1
"""Maximum number of shards from which the page of a version that a takedown makes shows pairs."""
_PACK_WEIGHT = 6
"""Cost of writing the shards, relative to each map before it; for the progress."""


def make(work: Work[PackConfig]) -> StageOutput:
    """Pack all shards.

    Raises: NothingLeft, with the numbers of rows of each stage, if curate kept no pair.
    """
    if not any(curate.counts.kept for curate, _ in _list_sources(work)):
        counts = "; ".join(_format_manifest_counts(work.inputs[stage]) for stage in ("download", "curate"))
        raise NothingLeft(f"no pair is left to pack: {counts}")
    with shared_workers(work.context) as context:
        return _make(work, context)


def _make(work: Work[PackConfig], context: Context) -> StageOutput:
    takedowns = load_targets(work.draft.store, select_requests(work.made_of))
    base = find_earlier_version(work, PACK.version) if takedowns else None
    opt_outs = NO_LISTS if base else _put_opt_outs(work)
    lineages = find_lineages(work)
    lineage = merge_lineages(lineages)
    with ThreadPoolExecutor(1) as thread:  # it reads the examples of the page, while others pack and index
        dropped = thread.submit(sample_dropped, work.draft.store, lineage, takedowns)
        if base is None:
            erased = load_erased(work.draft.store) if takedowns else ()  # their rows have no URL any more
            records = _pack_shards(work, context, (*takedowns, *erased), opt_outs)
            tallies = [tally for record in records for tally in record.facts["shards"]]
            made = Rewritten(*merge_records(records), add_tallies(tallies), len(tallies))
        else:
            newer = [request for request in select_requests(work.made_of) if request not in base.inputs]
            made = rewrite(work, base, load_targets(work.draft.store, newer), context)
        written, counts = made.parts, made.counts
        stated = _facts(work, made, base)
        rows = [part for part in written if part.name.startswith("part-")][: SAMPLED if base else None]
        tables = ((f"{work.draft.folder_of(part)}/{part.name}", part.bytes) for part in rows)
        kept = thread.submit(sample_kept, work.draft.store, tables, work.inputs["download"].config["encode_format"])
        indexes, commitments = _index_rows(work.draft, made, base, context)
        written += indexes
        facts = PackFacts(**stated, **_count_sources(made.totals, lineage), commitments=commitments)
        with work.draft.checked_once():
            written.append(write_totals(work.draft, made.totals))
            dataset = DatasetFacts.collect(work, counts, facts, written, lineages)
            written += put_pages(work.draft, dataset, Samples(kept.result(), dropped.result()))
        return StageOutput(written, counts, facts)


def _put_opt_outs(work: Work[PackConfig]) -> StoredLists:
    """Write the opt-out lists of the key for the tasks.

    Raises: ContractError if the config does not say where a list is: only an earlier version has applied it then.
    """
    lists = recall_lists(LISTS_KEY, work.config.all_lists, work.made_of)
    if missing := sorted(select_lists(work.made_of, OPT_OUT_LIST).keys() - lists.keys()):
        raise ContractError(
            f"the opt-out {'list' if len(missing) == 1 else 'lists'} {', '.join(missing)} cannot be applied again without "
            "the config; run the dataset's config again, which applies takedowns too"
        )
    return put_lists(work.draft, lists)


def _pack_shards(
    work: Work[PackConfig], context: Context, takedowns: tuple[Target, ...], opt_outs: StoredLists
) -> list[Record]:
    draft, config, layout = work.draft, work.config, _choose_layout(work, context)
    progress = StageProgress(context, (2 if layout.coarse > 1 else 1) + _PACK_WEIGHT)
    tasks = _list_parts(work, layout)
    records = map_parts(write_runs, tasks, draft, progress.of_map("sort rows", 1))
    runs = [
        (name, size)
        for task, record in zip(tasks, records, strict=True)
        for name, size in zip(run_names(task.id, len(record.facts["runs"])), record.facts["runs"], strict=True)
    ]
    sets = [RunSet(f"{layout.id}.index", tuple(name for name, _ in runs), layout.fine, layout.columns)]
    if layout.coarse > 1:
        merges = _list_merges(draft, runs, layout)
        map_parts(merge_runs, merges, draft, progress.of_map("merge runs", 1))
        sets = [
            RunSet(
                f"{layout.id}-{coarse:05d}.index",
                tuple(name for merge in merges if merge.coarse == coarse for name in run_names(merge.id, 1)),
                layout.fine,
                layout.columns,
            )
            for coarse in range(layout.coarse)
        ]
    shards = cut_shards(draft, sets, config.shard_size, config.shard_bytes)
    tasks_of_shards = _list_shards(shards, sets, layout, tasks[0], takedowns, opt_outs)
    return map_parts(pack_shards, tasks_of_shards, draft, progress.of_map("write shards", _PACK_WEIGHT))


def _list_sources(work: Work[PackConfig]) -> list[tuple[Manifest, Manifest]]:
    """Return the snapshots of curate and of download whose rows are packed: several where packs are merged."""
    upstream = work.upstream or (work.inputs["curate"], work.inputs["download"])
    by_stage = [[one for one in upstream if one.stage == stage] for stage in ("curate", "download")]
    return list(zip(*by_stage, strict=True))


def _choose_layout(work: Work[PackConfig], context: Context) -> SortLayout:
    kept = image_bytes = 0
    for curate, download in _list_sources(work):
        raw = sum(part.bytes for part in download.named("", ".tar"))
        image_bytes += raw * curate.counts.kept // max(download.counts.kept, curate.counts.kept, 1)
        kept += curate.counts.kept
    config = work.config
    shards = max(-(-kept // config.shard_size), -(-image_bytes // config.shard_bytes))
    workers = context.workers_per_machine or context.workers
    limit = int(IMAGES_SHARE * config.memory_limit_bytes / workers)
    layout = choose_layout(kept, image_bytes, shards, limit, is_remote=work.draft.store.is_remote)
    return replace(layout, columns=_read_columns(work))


def _read_columns(work: Work[PackConfig]) -> pa.Schema:
    """Return the columns of the rows that curate kept, with those of its steps."""
    curate = next(curate for curate, _ in _list_sources(work) if curate.counts.kept)
    with work.draft.store.open(curate.path(curate.named("part-", ".parquet")[0].name)) as file:
        return pq.read_schema(file).remove_metadata()


def _list_parts(work: Work[PackConfig], layout: SortLayout) -> list[CuratedParts]:
    """Return tasks of consecutive parts, each with about `run_bytes` of rows and images."""
    sources, tasks = _list_sources(work), list[CuratedParts]()
    limit = layout.run_bytes * sum(curate.counts.kept for curate, _ in sources) // layout.expected_bytes
    for curate, download in sources:
        extension, folder = str(download.config["encode_format"]), download.path("").rstrip("/")
        parts = curate.named("part-", ".parquet")
        names = [curate.path(part.name) for part in parts]
        tars = [part.name for part in download.named("", ".tar")]
        rewritten = tuple(name for name in tars if name != f"{number_of(name)}.tar")
        for group in group_units(names, [part.rows for part in parts], limit):
            place = (download.stage, f"{download.key}/") if len(sources) > 1 else (folder, "")
            tasks.append(CuratedParts(len(tasks), group, place[0], extension, work.seed, layout, place[1], rewritten))
    return tasks


def _list_merges(draft: Draft, runs: Sequence[tuple[str, int]], layout: SortLayout) -> list[MergedRuns]:
    """Return a task per coarse partition of some consecutive runs, each with about `run_bytes`."""
    groups = group_units([name for name, _ in runs], [size for _, size in runs], layout.run_bytes * layout.coarse)
    sets = [
        RunSet(f"{layout.id}-batch-{batch:05d}.index", group, layout.coarse, layout.columns)
        for batch, group in enumerate(groups)
    ]
    for runs_of_batch in sets:
        runs_of_batch.write_index(draft)
    return [MergedRuns(one, batch, coarse, layout) for coarse in range(layout.coarse) for batch, one in enumerate(sets)]


def _list_shards(
    shards: Sequence[CutShard],
    sets: Sequence[RunSet],
    layout: SortLayout,
    parts: CuratedParts,
    takedowns: tuple[Target, ...],
    opt_outs: StoredLists,
) -> list[TrainingShards]:
    """Return tasks of consecutive shards: one, or about `run_bytes` of images."""
    limit = layout.run_bytes if layout.has_images else 0
    tasks, first = list[TrainingShards](), 0
    for group in group_units(shards, [shard.bytes + shard.rows * ROW_BYTES for shard in shards], limit):
        end = shards[first + len(group)] if first + len(group) < len(shards) else None
        place = (parts.raw_folder, parts.image_extension)
        task = TrainingShards(first, group, end, (), layout, *place, takedowns, opt_outs)
        start, last = task.partitions
        tasks.append(replace(task, runs=tuple(sets[start // layout.fine : last // layout.fine + 1])))
        first += len(group)
    return tasks


def _facts(work: Work[PackConfig], made: Rewritten, base: Manifest | None) -> dict[str, Any]:
    """Return the facts of the manifest. Raises: NothingLeft if takedowns and opt-out lists removed all pairs."""
    counts = made.counts
    if not counts.kept:
        listed = counts.dropped.get(OPT_OUT_LIST, 0)
        more = f" or are named by an opt-out list ({listed:,})" if listed else ""
        raise NothingLeft(f"no pair is left to pack: all {counts.input:,} were taken down{more}")
    size = sum(part.bytes for part in made.parts if part.name.endswith(".tar"))
    names = PackFacts.of(base).columns if base else _read_columns(work).names
    added = [name for name in names if name not in CURATED.names]
    facts = {"samples": counts.kept, "shards": made.shards, "bytes": size, "columns": added} | merge([made.totals])
    if requests := select_requests(work.made_of):
        facts |= {"takedowns": [request.key for request in requests], "parent": base.key if base else None}
    return facts


def _index_rows(
    draft: Draft, made: Rewritten, base: Manifest | None, context: Context
) -> tuple[list[Part], dict[str, Any]]:
    """Write what finds rows by their values, and what plugins state about all of them; an earlier version has both."""
    if base and any(part.name.startswith(INDEX) for part in made.parts):
        return [], PackFacts.of(base).commitments
    rows = [part for part in made.parts if part.name.startswith("part-")]
    written, commitments = write_index(draft, rows, context), dict[str, Any]()
    for name, commit in plugins.load("commitments").items():
        parts, commitments[name] = commit(draft, rows)
        written += parts
    return written, commitments


def _count_sources(totals: Mapping[str, Tally], lineage: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the number of pairs of each source, if the sources have names."""
    names = [source.name for source in list_named_sources(lineage)]
    return {SOURCES: count_sources([totals], names)} if names else {}


def _format_manifest_counts(manifest: Manifest) -> str:
    counts = manifest.counts
    reasons = format_counts(Counter(counts.dropped).most_common())
    return f"{manifest.stage} kept {counts.kept:,} of {counts.input:,}" + (f" ({reasons})" if reasons else "")


PACK = Stage(
    name="pack",
    version=7,
    make=make,
    external_inputs=lambda config: read_inputs(LISTS_KEY, config.all_lists),
    store_inputs=list_applied,
)
