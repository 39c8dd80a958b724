"""Erase removed pairs from reports, manifests and records: in a store, and under the home folder.

Only what quotes pairs is overwritten (plugins/erasure/places.py). A page keeps its size, so that a part of a snapshot has
the size that its manifest names. The manifest is written first: a call that is killed before the part is written is
completed by the next one.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from itertools import repeat
from pathlib import Path

from dataops.errors import PairmillError, ServiceError, StorageError
from dataops.home import SERVERS, WRITTEN
from dataops.regular_files import open_regular
from dataops.snapshot import MANIFEST, Draft, Manifest, SnapshotName, load_manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Entry, Store, open_store
from dataops.trace.requests import FOLDER
from plugins.erasure.places import MARKUP, TEXTS, is_text
from plugins.erasure.scan import WHOLE_BYTES, Finds, Scanner, is_weights
from plugins.erasure.traces import parse_traces
from tasks.engine.context import Context
from tasks.engine.map_parts import shared_workers
from tasks.lineage.graph import Lineage
from tasks.takedown.holders import Found, Searched

logger = logging.getLogger(__name__)

CACHES = ("cache", "pages", "browse/indexes", "browse/sessions")
"""Folders of the home folder whose files are deleted if they hold a removed pair: they can be rebuilt."""
BATCH_BYTES, OBJECT_BYTES = 256 << 20, 1 << 16
"""Bytes that one task of the search reads, where each object counts as so many more."""
REMEDY_SERVER = (
    "stop the server with `pairmill down`, then repeat the takedown; a database that still has it needs VACUUM"
)


def erase_in_store(lineage: Lineage, scanner: Scanner) -> tuple[int, dict[str, str]]:
    """Erase from the objects of a store that are neither tables nor shards.

    Returns: the number of changed objects; and why an object stays as it is, by its name.
    """
    store, changed, refused = lineage.store, 0, dict[str, str]()
    for entry in store.entries(""):
        try:
            if is_searched(entry.name) and _is_text(entry):
                changed += _redact_object(lineage, entry.name, scanner)
        except (PairmillError, ValueError) as error:
            refused[entry.name] = str(error)
    return changed, refused


def is_searched(name: str) -> bool:
    """Return whether a search covers an object: requests and their reports name what later runs must leave out."""
    return not name.startswith(f"{FOLDER}/") and "/_work/lease-" not in name


def _is_text(entry: Entry) -> bool:
    return entry.name.endswith((".json", *MARKUP, *TEXTS)) and entry.bytes <= WHOLE_BYTES


def _redact_object(lineage: Lineage, name: str, scanner: Scanner) -> bool:
    store = lineage.store
    data = store.read(name)
    new = scanner.redact(data, name)
    if new == data:
        return False
    folder, _, part = name.rpartition("/")
    holder = SnapshotName(*folder.split("/")[:2]) if folder.count("/") >= 1 else None
    manifest = lineage.manifests.get(holder) if holder else None
    if manifest is not None and part != MANIFEST:
        _put_manifest_for(store, manifest, name, new)
    store.put(name, new)
    return True


def _put_manifest_for(store: Store, manifest: Manifest, name: str, data: bytes) -> None:
    """Write the manifest with the sha256 that a part gets."""
    now = load_manifest(store, manifest.stage, manifest.key)  # an earlier part of it may have changed it
    assert now is not None
    digest = hashlib.sha256(data).hexdigest()
    parts = [p.model_copy(update={"sha256": digest}) if manifest.path(p.name) == name else p for p in now.parts]
    if parts != [*now.parts]:
        Draft(store, now.stage, now.key).replace(now.model_copy(update={"parts": parts}))


# The home folder ------------------------------------------------------------------------------------------------------


def erase_in_home(home: Path, scanner: Scanner, stores: Sequence[Store]) -> tuple[int, dict[str, str]]:
    """Erase from the files of the home folder; return the number of changed files, and why a file stays as it is."""
    changed, refused = 0, dict[str, str]()
    for path in list_home_files(home, stores):
        relative = path.relative_to(home)
        if relative.parts[0] == SERVERS or is_weights(path.name):
            continue
        try:
            with open_regular(path) as file:
                found = scanner.scan(file, str(relative), path.stat().st_size)
            if not found:
                continue
            if is_cache(relative):
                path.unlink()
            elif is_text(path.name) and path.stat().st_size <= WHOLE_BYTES:
                _overwrite(path, scanner.redact(path.read_bytes(), str(relative)))
            else:
                continue
            changed += 1
        except (OSError, PairmillError, ValueError) as error:
            refused[str(path)] = str(error)
    return changed, refused


def is_cache(relative: Path) -> bool:
    """Return whether a file of the home folder, by its path below it, is a copy that can be rebuilt."""
    return any(relative.is_relative_to(folder) for folder in CACHES)


def _overwrite(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def list_home_files(home: Path, stores: Sequence[Store]) -> Iterator[Path]:
    """Yield the files that pairmill wrote under the home folder, without the stores and the servers' own pages there."""
    left_out = {Path(store.uri).resolve() for store in stores if not store.is_remote}
    for written in WRITTEN:
        for folder, names, files in os.walk(home / written):
            here = Path(folder)
            packaged = {here / "ui"} if here.parent == home / SERVERS else set[Path]()
            names[:] = sorted(name for name in names if (here / name).resolve() not in left_out | packaged)
            yield from (path for name in sorted(files) if (path := here / name).is_file() and not path.is_symlink())


def search_store(
    context: Context, scanner: Scanner, lineage: Lineage, traces: str | None = None, batch_bytes: int = BATCH_BYTES
) -> Searched:
    """Search all objects of a store but the requests: by workers if there is more than one task for them.

    Args:
        traces: name of the object from which workers read what the scanner searches for; None: without workers.
        batch_bytes: bytes that one task reads.

    Raises: ServiceError if a worker died.
    """
    store, searched = context.store, Searched(f"store {context.store.uri}")
    entries = [entry for entry in store.entries("") if is_searched(entry.name)]
    searched.weights = sum(is_weights(entry.name) for entry in entries)
    batches = list(_cut([(one.name, one.bytes) for one in entries if not is_weights(one.name)], batch_bytes))
    if traces is None or len(batches) == 1:
        results = (scan_objects(store, scanner, batch) for batch in batches)
        _add_results(searched, results, lineage)
        return searched
    with shared_workers(replace(context, workers=min(context.workers, len(batches)))) as sharing:
        assert sharing.pool is not None
        try:
            _add_results(searched, sharing.pool.map(_scan_in_worker, repeat((store.uri, traces)), batches), lineage)
        except BrokenProcessPool as error:
            raise ServiceError(
                "a worker died during the search (killed, or out of memory); repeat the takedown"
            ) from error
    return searched


Objects = Sequence[tuple[str, int]]
"""Names and sizes of objects of a store."""


def _cut(objects: Objects, batch_bytes: int) -> Iterator[Objects]:
    """Yield consecutive objects of about so many bytes."""
    batch, size = list[tuple[str, int]](), 0
    for one in objects:
        batch.append(one)
        size += one[1] + OBJECT_BYTES
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _scan_in_worker(where: tuple[str, str], objects: Objects) -> list[tuple[str, int, Finds]]:
    return scan_objects(open_store(where[0]), _load_scanner(*where), objects)


@lru_cache(maxsize=1)
def _load_scanner(store_uri: str, traces: str) -> Scanner:
    return Scanner(parse_traces(open_store(store_uri), traces))


def scan_objects(store: Store, scanner: Scanner, objects: Objects) -> list[tuple[str, int, Finds]]:
    """Return name, size and finds of each object that was not deleted meanwhile."""
    found = list[tuple[str, int, Finds]]()
    for name, size in objects:
        try:
            with store.open_once(name) as file:
                found.append((name, size, scanner.scan(file, name, size)))
        except StorageError:
            if store.size(name) is not None:
                raise
    return found


def _add_results(searched: Searched, results: Iterable[list[tuple[str, int, Finds]]], lineage: Lineage) -> None:
    for name, size, finds in (one for batch in results for one in batch):
        searched.files, searched.bytes = searched.files + 1, searched.bytes + size
        if finds:
            searched.found.append(Found(searched.place, name, dict(finds), _explain(name, lineage)))


def _explain(name: str, lineage: Lineage) -> str:
    """Return what to do about a find in a store."""
    stage, _, rest = name.partition("/")
    holder = SnapshotName(stage, rest.partition("/")[0])
    if holder in lineage.inventory.snapshots and holder not in lineage.manifests:
        return "the snapshot is unfinished: complete its run, or delete it with `pairmill gc --yes`; then repeat"
    if stage in PAIR_STAGES:
        return "another pair has the same image or URL: add a line `sha256:...` or the URL to the file, and repeat"
    return "remake the snapshot with `--force`, or delete it"


def search_home(home: Path, scanner: Scanner, stores: Sequence[Store]) -> Searched:
    """Search all files under the home folder."""
    searched = Searched(f"home {home}")
    for path in list_home_files(home, stores):
        if is_weights(path.name):
            searched.weights += 1
            continue
        relative = path.relative_to(home)
        try:
            size = path.stat().st_size
            with open_regular(path) as file:
                finds = scanner.scan(file, str(relative), size)
        except OSError:  # deleted meanwhile
            continue
        searched.files, searched.bytes = searched.files + 1, searched.bytes + size
        if finds:
            remedy = REMEDY_SERVER if relative.parts[0] == SERVERS else "delete the file, and repeat the takedown"
            searched.found.append(Found(searched.place, str(relative), dict(finds), remedy))
    return searched
