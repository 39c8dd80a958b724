"""`pairmill plan takedown`: shows what a takedown would change and what that takes; it writes nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataops.formatting import format_bytes, format_quantity
from dataops.snapshot import Manifest
from dataops.store import Store
from dataops.trace.requests import select_requests
from dataops.trace.targets import Target
from flows.commands.options import Json, StoreUri
from flows.commands.output import console, print_json
from flows.records import known_stores
from infra.local import services
from plugins.erasure.collect import list_tables
from plugins.erasure.erase_texts import is_text_object
from plugins.erasure.raw_images import find_raw_snapshots
from plugins.erasure.record_search import ARCHIVE
from plugins.erasure.seen_store import remember
from plugins.erasure.target_files import read_targets
from tasks.lineage.graph import KEPT, Lineage
from tasks.search import Hit, Rows, Search, name_dataset, select_parts

READINGS = {"extract": 2, "filter": 1, "download": 1, "curate": 1}
"""How often a deletion reads each table by a request: extract again, since it has further captions of the URL."""
TEXTS, DELETION, LISTINGS = 2, 130, 8
"""Requests for a record, page or archive, which is erased and searched; of a deletion besides; listings of all objects."""
REQUESTS, PER_SNAPSHOT, PER_VERSION, PER_SHARD = 4, 2, 24, 11
"""Requests to a store on S3: of the register, to read a snapshot and search it, of a next version and a shard of it."""
PER_READ, PER_TASK = 1, 5
"""Requests of each part of a snapshot in which no index excludes one; and of a task for it, if it has a next version."""
NAMES = 1000
"""Names that a request lists."""


def command(file: Path, *, store: StoreUri = None, json: Json = False) -> int:
    """Show the datasets, shards and raw images that a takedown would change, with its bytes and requests; change nothing.

    Args:
        file: a request, as for `pairmill takedown`.
    """
    targets = read_targets(file)
    plans = [plan_takedown(one, targets) for one in known_stores(services.home(), store)]
    if json:
        print_json({"targets": len(targets), "stores": plans})
        return 0
    out = console()
    for plan in plans:
        _show(plan, len(targets))
    out.write("--delete-raw also reads what pairmill wrote elsewhere, to search it")
    return 0


def plan_takedown(store: Store, targets: Sequence[Target]) -> dict[str, Any]:
    """Return what a takedown changes in a store, and about how many requests it takes, also with --delete-raw."""
    seen = remember(store)
    lineage, search = Lineage(seen), Search(seen)
    datasets: dict[str, tuple[Manifest, list[Hit]]] = {}
    affected = 0
    for manifest in sorted(lineage.manifests.values(), key=lambda one: len(select_requests(one.inputs))):
        if manifest.stage == "pack" and (hits := search.find(Rows(manifest, KEPT), targets)):
            datasets[name_dataset(manifest)] = manifest, hits  # versions of one dataset have one next version
            affected += 1
    shards = {
        (manifest.key, part): _size_of(manifest, part.removeprefix(KEPT).removesuffix(".parquet"))
        for manifest, hits in datasets.values()
        for part in {hit.part.name for hit in hits}
    }
    raw = find_raw_snapshots(lineage, search, targets)
    searched = [one for one in lineage.manifests.values() if one.stage in ("pack", "download")]
    pages = len(seen.entries("")) // NAMES + 1
    requests = pages + REQUESTS + len(lineage.manifests) + PER_SNAPSHOT * len(searched)
    changed = {manifest.key for manifest, _ in datasets.values()}
    for one in searched:
        kept = one.named(KEPT, ".parquet")
        if len(select_parts(seen, one, kept, targets)) == len(kept):
            requests += len(kept) * (PER_READ + PER_TASK * (one.key in changed))
    requests += PER_VERSION * len(datasets) + PER_SHARD * len(shards)
    tables = list_tables(lineage, targets, set())
    texts = sum(is_text_object(one) or one.name.endswith(ARCHIVE) for one in seen.entries(""))
    reads = sum(len(some) * READINGS.get(stage, 1) for stage, some in tables.every.items())
    return {
        "store": store.uri,
        "datasets": sorted(changed),
        "versions": affected,
        "pairs": sum(len(hits) for _, hits in datasets.values()),
        "shards": len(shards),
        "bytes": sum(shards.values()),
        "raw_images": sum(len(one.hits) for one in raw),
        "raw_shards": sum(len(one.parts) for one in raw),
        "requests": requests,
        "requests_to_delete": requests + reads + TEXTS * texts + LISTINGS * (pages - 1) + DELETION,
    }


def estimate_requests(files: int, raw_shards: int, shards: int) -> int:
    """Return the requests of a takedown of one pair with --delete-raw in a corpus.

    Args:
        files: source files; extract and filter have two tables of each.
        raw_shards: download has two tables of each that are read, and curate two.
        shards: those of the dataset; neither they nor the raw shards are read, nor their rows.
    """
    tables = 2 * sum(READINGS[stage] * files for stage in ("extract", "filter"))
    tables += 2 * sum(READINGS[stage] * raw_shards for stage in ("download", "curate"))
    objects = 5 * files + 6 * raw_shards + 3 * shards
    return tables + TEXTS * files + LISTINGS * (objects // NAMES) + DELETION + PER_VERSION + PER_SHARD


def _size_of(dataset: Manifest, shard: str) -> int:
    return sum(part.bytes for part in dataset.named(f"{shard}.tar"))


def _show(plan: dict[str, Any], targets: int) -> None:
    out = console()
    out.write(f"Takedown of {format_quantity(targets, 'target')} in {plan['store']}", "bold")
    shards = f"{format_quantity(plan['shards'], 'shard')} ({format_bytes(plan['bytes'], 'B')})"
    out.write(f"  {format_quantity(plan['pairs'], 'pair')} in {format_quantity(len(plan['datasets']), 'dataset')}")
    out.write(f"  {shards} to write again, each read once before and once as the proof")
    images, raw = format_quantity(plan["raw_images"], "image"), format_quantity(plan["raw_shards"], "raw shard")
    out.write(f"  {images} in {raw} that --delete-raw writes again")
    requests, more = format_quantity(plan["requests"], "request"), plan["requests_to_delete"]
    out.write(f"  about {requests} to the store, if it is on S3; {more:,} with --delete-raw")
