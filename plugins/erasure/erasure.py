"""`pairmill takedown --delete-raw`: delete images of removed pairs, erase what quotes them, and search as the proof."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataops.errors import ConfigError, PairmillError
from dataops.formatting import format_bytes, format_counts, format_quantity
from dataops.store import Store
from dataops.trace.targets import Target
from flows.commands.output import Output
from flows.records import read_record
from plugins.erasure.batches import Place
from plugins.erasure.collect import collect_traces
from plugins.erasure.leftovers import delete_leftovers, find_held, find_leftovers
from plugins.erasure.next_versions import TakedownResult
from plugins.erasure.proof import erase_and_search
from plugins.erasure.raw_images import (
    delete_raw,
    delete_superseded,
    find_raw_snapshots,
    find_unmatched,
    find_urls,
)
from plugins.erasure.target_files import LISTED
from plugins.erasure.traces import load_traces, put_traces, traces_name
from tasks.download.hooks import load_hooks
from tasks.engine.context import Context
from tasks.lineage.graph import Lineage
from tasks.search import Search
from tasks.takedown.holders import Scope, Traces

logger = logging.getLogger(__name__)


@dataclass
class Erasure:
    """The deletion of the takedowns of one call in one store: one pass over it, whatever the number of requests."""

    context: Context
    stores: Sequence[Store]
    """All known stores."""
    lineage: Lineage
    search: Search
    requests: Sequence[str]
    """Digests of the requests."""
    targets: Sequence[Target]
    """Those of all requests, with the uids of the removed pairs."""
    outcomes: Sequence[TakedownResult]
    uids: set[str]
    """Removed pairs, as far as they are known."""
    deletes_raw: bool

    def __post_init__(self) -> None:
        self.store, self.traces, self._clean = self.context.store, Traces(), frozenset[str]()
        for request in self.requests:
            self.traces.add(load_traces(self.lineage.store, request))
        if self.deletes_raw:
            known = (Target("uid", uid) for uid in self.uids | self.traces.uids)
            place = Place(traces_name(self.requests[0]), tuple(self.requests))
            sought = [*self.targets, *known]
            self.traces, self._clean = collect_traces(self.lineage, sought, self.context, self.traces, place)
        self.targets = [*self.targets, *(Target("uid", uid) for uid in sorted(self.uids | self.traces.uids))]
        self.raw = find_raw_snapshots(self.lineage, self.search, self.targets)
        inventory = self.lineage.inventory
        if self.deletes_raw:
            inventory.add([outcome.successor for outcome in self.outcomes if outcome.successor])
        self.leftovers = find_leftovers(inventory, self.targets)

    def find_unmatched(self, targets: Sequence[Target], matched: set[Target]) -> list[Target]:
        """Return those of some targets that match no pair of a dataset version and no raw image."""
        return find_unmatched(self.search, self.raw, targets, matched)

    def count(self) -> dict[str, Any]:
        """Return the fields of the report on what is left: images in raw snapshots, and objects of unfinished work."""
        return {
            "raw_snapshots": {one.download.key: len(one.hits) for one in self.raw},
            "leftovers": {str(one.snapshot): len(one.objects) for one in self.leftovers},
        }

    def question(self) -> str:
        """Return what is asked on the terminal before the deletion."""
        samples = sum(len(one.hits) for one in self.raw)
        versions = len({one.affected.dataset.key for one in self.outcomes if one.successor is not None})
        images, objects = format_quantity(samples, "image"), sum(len(one.objects) for one in self.leftovers)
        return (
            f"Delete {images} from raw shards, {format_quantity(versions, 'superseded dataset version')},"
            f" {format_quantity(objects, 'object')} of unfinished work, and the kept originals? [y/N] "
        )

    def delete(self) -> dict[str, Any]:
        """Delete, erase and search; return the fields of the report. It can be killed at any moment and called again."""
        self._save(self.traces)  # before the first deletion
        deleted = self._delete()
        after = Lineage(self.store)
        deleted["not_deleted"] = find_held(self.context, after.inventory) | deleted["not_deleted"]
        self.raw = find_raw_snapshots(after, Search(self.store), self.targets)
        self.leftovers = find_leftovers(after.inventory, self.targets)
        name = traces_name(self.requests[0])
        scope = Scope(self.context, self.context.home, self.stores, name, self._clean)
        proof = erase_and_search(scope, self.traces)
        if proof.is_clean():
            found = self.traces  # of which nobody can then read a caption or a URL
            self._save(Traces(uids=found.uids, images=found.images, scores=found.scores))
        return {"deleted": deleted, **self.count(), "search": proof.as_json()}

    def _save(self, traces: Traces) -> None:
        for request in self.requests:
            put_traces(traces, self.store, traces_name(request))

    def _delete(self) -> dict[str, Any]:
        """Delete in an order in which a killed call leaves what the next one needs to find the rest.

        URLs of originals are in raw snapshots, and uids of images in dataset versions; so originals go first, datasets
        last.
        """
        context, refused = self.context, dict[str, str]()

        def attempt(what: str, delete: Callable[[], int]) -> int:
            try:
                return delete()
            except PairmillError as error:
                refused[what] = str(error)
                return 0

        urls = find_urls(self.search, self.raw)
        originals = sum(
            attempt(folder, lambda hook=hook, folder=folder: load_hooks()[hook].erase(folder, urls, self.targets))
            for hook, folder in _list_copies(self.store)
        )
        samples = {
            one.download.key: attempt(
                f"download/{one.download.key}", lambda one=one: delete_raw(context, one, self.targets)
            )
            for one in self.raw
        }
        objects = sum(
            attempt(str(one.snapshot), lambda one=one: delete_leftovers(context, one.snapshot, self.targets))
            for one in self.leftovers
        )
        superseded: list[str] = []
        for outcome in {one.affected.dataset.key: one for one in self.outcomes}.values():
            old = outcome.affected.dataset
            if outcome.successor is None or outcome.error:
                refused[f"pack/{old.key}"] = "it has no next version"
            elif why := delete_superseded(context, old):
                refused[f"pack/{old.key}"] = why
            else:
                superseded.append(old.key)
        return {
            "raw_samples": {key: number for key, number in samples.items() if number},
            "datasets": superseded,
            "originals": originals,
            "leftovers": objects,
            "not_deleted": refused,
        }


def show(report: Mapping[str, Any], out: Output) -> None:
    """Print what was deleted, what is left, and the search."""
    out.print()
    if deleted := report["deleted"]:
        for key, number in deleted["raw_samples"].items():
            out.write(f"deleted {format_quantity(number, 'sample')} from raw snapshot download/{key}")
        for key in deleted["datasets"]:
            out.write(f"deleted dataset version {key}")
        if deleted["originals"]:
            out.write(f"deleted {deleted['originals']:,} originals")
        if deleted["leftovers"]:
            out.write(f"deleted {format_quantity(deleted['leftovers'], 'object')} of unfinished work")
        for name, why in deleted["not_deleted"].items():
            out.write(f"NOT deleted: {name}: {why}", "red")
    for key, number in report["raw_snapshots"].items():
        out.write(f"raw snapshot download/{key} still has {number:,} of the images; --delete-raw deletes them")
    for name, number in report["leftovers"].items():
        out.write(
            f"{format_quantity(number, 'object')} of unfinished work in {name} may hold such images;"
            " --delete-raw deletes them"
        )
    if report["search"]:
        _show_search(report["search"], out)


def _show_search(search: Mapping[str, Any], out: Output) -> None:
    erased = search["erased"]
    rows, snapshots = sum(erased["rows"].values()), len(erased["rows"])
    if rows:
        where = format_quantity(snapshots, "snapshot")
        out.write(f"erased URL and caption of {format_quantity(rows, 'row')} in {where}")
    for number, noun, place in (
        (erased["objects"], "other object", "store"),
        (erased["files"], "file", "home folder"),
    ):
        if number:
            out.write(f"erased from {format_quantity(number, noun)} of the {place}")
    for name, why in search["not_erased"].items():
        out.write(f"NOT erased: {name}: {why}", "red")
    out.print()
    for one in search["searched"]:
        size = format_bytes(one["bytes"])
        size += f"; {one['proved']:,} of them before the deletion, or by an index" if one["proved"] else ""
        weights = (
            f"; {format_quantity(one['weights_not_read'], 'file')} of weights not read"
            if one["weights_not_read"]
            else ""
        )
        out.write(f"searched {one['place']}: {format_quantity(one['files'], 'file')}, {size}{weights}")
    for name, why in search["could_not_search"].items():
        out.write(f"NOT searched: {name}: {why}", "red")
    for one in search["found"][:LISTED]:
        what = format_counts(one["found"].items())
        out.write(f"FOUND in {one['place']}: {one['name']}: {what}", "red")
        out.write(f"  {one['remedy']}")
    if len(search["found"]) > LISTED:
        out.write(f"and in {len(search['found']) - LISTED:,} more, which the report lists", "red")
    if not search["found"]:
        out.write("found: no image, preview, caption or URL of the removed pairs", "green")
    out.write("out of reach of this search:")
    for line in search["out_of_reach"]:
        out.write(f"  {line}")


def _list_copies(store: Store) -> list[tuple[str, str]]:
    """Return the hooks of downloads and the folders of this machine in which they kept images for runs of this store."""
    found: set[tuple[str, str]] = set()
    for name in store.names("runs"):
        try:
            table = read_record(store, name).config.get("download", {})
        except ConfigError as error:
            logger.warning("%s", error)
            continue
        found |= {(one, folder) for one, hook in load_hooks().items() for folder in hook.list_copies(table)}
    return sorted(found)
