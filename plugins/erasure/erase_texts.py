"""Erase removed pairs from the reports, manifests and records of a store.

Only what quotes pairs is overwritten (plugins/erasure/places.py). A page keeps its size, so that a part of a snapshot has
the size that its manifest names. The manifest is written first: a call that is killed before the part is written is
completed by the next one.
"""

import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass

from dataops.errors import PairmillError, StorageError
from dataops.snapshot import MANIFEST, Draft, Manifest, SnapshotName, load_manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Entry, Store
from dataops.trace.requests import FOLDER
from plugins.erasure.batches import Objects, Place, Sought, find_place, map_objects
from plugins.erasure.places import MARKUP, TEXTS
from plugins.erasure.scan import Finds, Scanner, is_weights
from plugins.erasure.traces import WHOLE_BYTES, open_whole
from tasks.engine.context import Context
from tasks.lineage.graph import Lineage
from tasks.takedown.holders import Erased, Found, Scope, Searched, Traces

logger = logging.getLogger(__name__)


def erase_in_store(
    lineage: Lineage, context: Context, sought: Sought, place: Place | None = None
) -> tuple[int, dict[str, str]]:
    """Erase from the objects of a store that are neither tables nor shards.

    Returns: the number of changed objects; and why an object stays as it is, by its name.
    """
    store, changed, refused = lineage.store, 0, dict[str, str]()
    texts = [(one.name, one.bytes) for one in store.entries("") if is_searched(one.name) and is_text_object(one)]
    for name in (name for names in map_objects(_find_redactable, texts, sought, context, place) for name in names):
        try:
            changed += _redact_object(lineage, name, sought.scanner)
        except (PairmillError, ValueError) as error:
            refused[name] = str(error)
    return changed, refused


def _find_redactable(store: Store, sought: Sought, objects: Objects) -> list[str]:
    """Return the names of the objects that change if they are redacted, or that cannot be."""
    found = list[str]()
    for name, _ in objects:
        try:
            data = store.read(name)
            is_found = sought.scanner.redact(data, name) != data
        except (PairmillError, ValueError):
            is_found = True
        found += [name] if is_found else []
    return found


def is_searched(name: str) -> bool:
    """Return whether a search covers an object: requests and their reports name what later runs must leave out."""
    return not name.startswith(f"{FOLDER}/") and "/_work/lease-" not in name


def is_text_object(entry: Entry) -> bool:
    """Return whether an object is a record, a page or a log that is erased by overwriting what it quotes."""
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


def search_store(
    context: Context, sought: Sought, lineage: Lineage, place: Place | None = None, clean: Collection[str] = ()
) -> Searched:
    """Search all objects of a store but the requests.

    Args:
        place: as for `map_objects`.
        clean: names of objects that hold no trace.

    Raises: as map_objects.
    """
    store, searched = context.store, Searched(f"store {context.store.uri}")
    entries = [entry for entry in store.entries("") if is_searched(entry.name)]
    searched.weights_not_read = sum(is_weights(entry.name) for entry in entries)
    searched.files = searched.proved = sum(one.name in clean for one in entries)
    objects = [(one.name, one.bytes) for one in entries if not is_weights(one.name) and one.name not in clean]
    results = map_objects(scan_objects, objects, sought, context, place)
    for name, size, finds in (one for batch in results for one in batch):
        searched.files, searched.bytes = searched.files + 1, searched.bytes + size
        if finds:
            searched.found.append(Found(searched.place, name, dict(finds), _explain(name, lineage)))
    return searched


def scan_objects(store: Store, sought: Sought, objects: Objects) -> list[tuple[str, int, Finds]]:
    """Return name, size and finds of each object that was not deleted meanwhile."""
    found = list[tuple[str, int, Finds]]()
    for name, size in objects:
        try:
            with open_whole(store, name, size) as file:
                found.append((name, size, sought.scanner.scan(file, name, size)))
        except StorageError:
            if store.size(name) is not None:
                raise
    return found


def _explain(name: str, lineage: Lineage) -> str:
    """Return what to do about a find in a store."""
    stage, _, rest = name.partition("/")
    holder = SnapshotName(stage, rest.partition("/")[0])
    if holder in lineage.inventory.snapshots and holder not in lineage.manifests:
        return "the snapshot is unfinished: complete its run, or delete it with `pairmill gc --yes`; then repeat"
    if stage in PAIR_STAGES:
        return "another pair has the same image or URL: add a line `sha256:...` or the URL to the file, and repeat"
    return "remake the snapshot with `--force`, or delete it"


@dataclass(frozen=True)
class StoreObjects:
    """Records and pages of a store."""

    order: int = 20

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite what quotes the pairs."""
        context = scope.context
        objects, refused = erase_in_store(Lineage(context.store), context, Sought(traces), find_place(scope))
        return Erased(objects=objects, refused=refused)

    def find(self, traces: Traces, scope: Scope) -> Searched:
        """Search all objects of the store, by the workers of the executor if they are large."""
        context = scope.context
        return search_store(context, Sought(traces), Lineage(context.store), find_place(scope), scope.clean)


STORE = StoreObjects()
