"""`pairmill takedown`: records a request, makes the next dataset versions, tags models, deletes, and reports.

It can be killed at any moment. Started again with the same file, it reuses what is complete and does the rest.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from dataops.errors import ConfigError, PairmillError
from dataops.facts import replace_quotes
from dataops.formatting import format_quantity
from dataops.store import Store
from dataops.trace.requests import (
    Request,
    load_report,
    make_request,
    read_targets,
    record_request,
    report_name,
)
from dataops.trace.targets import Target
from flows.commands.options import Json, StoreUri, Yes
from flows.commands.output import console, print_json
from flows.commands.removal.output import show_end, show_report
from flows.records import RunRecord, known_stores, read_record
from infra.local import services
from tasks.download.hooks import load_hooks
from tasks.engine.context import Context
from tasks.lineage.graph import Lineage
from tasks.lineage.inventory import Inventory
from tasks.lineage.publications import find_published
from tasks.lineage.search import Search
from tasks.lineage.takedown import TakedownResult, find_affected, replace_affected
from tasks.lineage.takedown_leftovers import Leftovers, delete_leftovers, find_leftovers
from tasks.lineage.takedown_raw import (
    RawSnapshot,
    delete_raw,
    delete_superseded,
    find_raw_snapshots,
    find_uids_by_phash,
    find_unmatched,
    find_urls,
)
from tasks.takedown.holders import RecordKind, Scope, erase_and_search, find_holders
from tasks.takedown.request_log import Letter, load_log, make_letter
from tasks.takedown.traces import collect_traces, load_traces
from tasks.tracking.registry import Registry

logger = logging.getLogger(__name__)

RUN_RECORDS = RecordKind(
    re.compile(r"runs/[^/]+\.json"),
    partial(replace_quotes, RunRecord),
    lambda value: RunRecord.model_validate(value).model_dump_json(indent=2).encode(),
)


@dataclass(frozen=True)
class TakedownOptions:
    """Options of `pairmill takedown`."""

    file: Path
    reason: str = ""
    delete_raw: bool = False
    yes: bool = False
    requested_by: str = ""
    """Who asked. It is written to the register of requests only."""
    received: str = ""
    due: str = ""
    """Dates, as YYYY-MM-DD."""


def command(
    file: Path,
    *,
    reason: Annotated[str, Parameter(help="Recorded with the request.", show_default=False)] = "",
    delete_raw: Annotated[
        bool,
        Parameter(negative="", help="Also delete the images from raw shards, and the superseded dataset versions."),
    ] = False,
    yes: Annotated[Yes, Parameter(help="With --delete-raw: do not ask; required without a terminal.")] = False,
    requested_by: Annotated[
        str, Parameter(help="Who asked; kept in the store's register of requests only.", show_default=False)
    ] = "",
    received: Annotated[
        str, Parameter(help="Day on which the request came, YYYY-MM-DD; default: today.", show_default=False)
    ] = "",
    due: Annotated[
        str, Parameter(help="Day until which it must be done; default: 30 days later.", show_default=False)
    ] = "",
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Remove pairs from every dataset, tag the models that were trained on them, and verify that none is left.

    With --delete-raw, also erase them from reports, caches and MLflow, and search everything that pairmill wrote.

    Args:
        file: URLs, domains, uids, sha256, phash:HEX, image:PATH, one per line; or CSV (kind, value), or TOML.
    """
    options = TakedownOptions(file, reason, delete_raw, yes, requested_by, received, due)
    return takedown(options, services.home(), store, as_json=json)


def takedown(options: TakedownOptions, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """Carry out the request in every known store; return 3 if a part failed or something was found, which it names.

    Raises: ConfigError if the file or a date is not valid, or --delete-raw needs a confirmation and there is no terminal
        for it.
    """
    targets = read_targets(options.file)
    request = make_request(targets, options.reason)
    letter = make_letter(options.requested_by, options.received, options.due, options.reason)
    if options.delete_raw and not options.yes and not sys.stdin.isatty():
        raise ConfigError(
            "--delete-raw deletes permanently, and there is no terminal on which to confirm it; add --yes"
        )
    if options.delete_raw:
        find_holders()
    out = None if as_json else console()
    work = _Work(home, options, request, letter, targets, known_stores(home, store_uri), out)
    reports = [_take_down_in_store(work, store) for store in work.stores]
    images = work.images or [_delete_images_of_prefect()]
    errors = [{"error": one["error"]} for one in images if "error" in one]
    if as_json:
        prefect = {"deleted": sum(one["deleted"] for one in images), **(errors[0] if errors else {})}
        print_json({"request": request.digest, "targets": list(request.targets), "stores": reports, "prefect": prefect})
    return 3 if any(report["incomplete"] for report in reports) or errors else 0


def _delete_images_of_prefect() -> dict[str, Any]:
    """Delete the artefacts with images of earlier runs; return how many, or why that failed, which is logged."""
    if not os.environ.get("PREFECT_API_URL"):
        return {"deleted": 0}
    from flows.listeners.samples import try_to_delete_samples

    return try_to_delete_samples()


@dataclass(frozen=True)
class _Work:
    """What one call does, in all stores."""

    home: Path
    options: TakedownOptions
    request: Request
    letter: Letter
    targets: Sequence[Target]
    stores: Sequence[Store]
    out: Console | None
    images: list[dict[str, Any]] = field(default_factory=list)
    """What was deleted in Prefect, by store with the request."""


def _take_down_in_store(work: _Work, store: Store) -> dict[str, Any]:
    home, options, request, targets, out = work.home, work.options, work.request, work.targets, work.out
    lineage, search = Lineage(store), Search(store)
    if not lineage.manifests and not find_leftovers(lineage.inventory, targets):
        return {"store": store.uri, "incomplete": False, "datasets": []}
    new = record_request(store, request)  # before all else: runs that start from now on apply it
    is_named = bool(options.requested_by or options.received or options.due)
    log = load_log(store, request.digest, len(targets))
    log = log.begin(work.letter, is_named=is_named, deletes_raw=options.delete_raw)
    log.save(store)
    work.images.append(_delete_images_of_prefect())  # no later run shows images, and the search comes after it
    found = find_affected(lineage, search, targets, Registry())
    context = Context(store=store, home=home, run_id=f"takedown-{request.digest}")
    outcomes = replace_affected(lineage, context, request, found)
    earlier = load_report(store, report_name(request.digest))  # its datasets may be deleted
    uids = {uid for one in found for uid in one.uids}.union(earlier.uids)
    uids |= find_uids_by_phash(lineage, search, targets)
    traces = load_traces(store, request.digest)
    if options.delete_raw:
        traces.add(collect_traces(lineage, [*targets, *(Target("uid", uid) for uid in uids | traces.uids)]))
    all_targets = [*targets, *(Target("uid", uid) for uid in sorted(uids | traces.uids))]
    raw = find_raw_snapshots(lineage, search, all_targets)
    leftovers = find_leftovers(Inventory(store), all_targets)  # with the next versions
    matched = {target for one in found for target in one.targets}
    unmatched = [str(target) for target in find_unmatched(search, raw, targets, matched)]
    if earlier.unmatched is not None:  # what an earlier call deleted matches nothing now
        unmatched = [target for target in unmatched if target in earlier.unmatched]
    report: dict[str, Any] = {
        "store": store.uri,
        "request": request.model_dump(mode="json") | {"digest": request.digest, "new": new},
        "unmatched": unmatched,
        "uids": sorted(uids),
        "versions": earlier.versions | {o.affected.dataset.key: o.successor.key for o in outcomes if o.successor},
        "datasets": [outcome.as_json() for outcome in outcomes],
        "raw_snapshots": {one.download.key: len(one.hits) for one in raw},
        "leftovers": {str(one.snapshot): len(one.objects) for one in leftovers},
        "deleted": {},
        "search": {},
    }
    held = {o.affected.dataset.key for o in outcomes} | earlier.versions.keys()
    report["published"] = _list_published(store, held, report["versions"])
    _put_report(store, request, report)  # before the deletion: a killed call leaves the uids and the next versions
    if out:
        show_report(report, datasets=len(found), out=out)
    if options.delete_raw and (options.yes or _confirm(raw, outcomes, leftovers)):
        traces.save(store, request.digest)  # before the first deletion
        report["deleted"] = _delete(store, context, search, raw, outcomes, leftovers, all_targets)
        after = Lineage(store)
        left = find_raw_snapshots(after, Search(store), all_targets)
        report["raw_snapshots"] = {one.download.key: len(one.hits) for one in left}
        leftovers = find_leftovers(after.inventory, all_targets)
        report["leftovers"] = {str(one.snapshot): len(one.objects) for one in leftovers}
        proof = erase_and_search(Scope(context, home, work.stores, [RUN_RECORDS]), traces)
        report["search"] = proof.as_json()
        if proof.is_clean():
            traces.without_text().save(store, request.digest)
    report["incomplete"] = _incomplete(report, options)
    _put_report(store, request, report)
    log.end(is_complete=not report["incomplete"], summary=_summarise(report)).save(store)
    if out:
        show_end(report, report_name(request.digest), out)
    return report


def _list_published(store: Store, datasets: Collection[str], versions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return where the datasets, and models trained on them, were published, with what to do there."""
    return [
        {
            **one.as_json(),
            "remedy": one.explain_removal(next((versions[key] for key in one.datasets if key in versions), None)),
        }
        for one in find_published(store, datasets)
    ]


def _put_report(store: Store, request: Request, report: Mapping[str, object]) -> None:
    store.put(report_name(request.digest), json.dumps(report, indent=2).encode())


def _incomplete(report: Mapping[str, Any], options: TakedownOptions) -> bool:
    missed = any(one["trouble"] or one["models_not_tagged"] for one in report["datasets"])
    left = report["raw_snapshots"] or report["leftovers"] or report["deleted"].get("not_deleted")
    proof = report["search"]
    left = left or not proof or proof["found"] or proof["could_not_search"] or proof["not_erased"]
    return missed or bool(options.delete_raw and left)


def _summarise(report: Mapping[str, Any]) -> dict[str, int]:
    """Return what the register keeps of a report."""
    deleted, proof = report["deleted"], report["search"]
    return {
        "pairs": len(report["uids"]),
        "versions": len(report["versions"]),
        "models_tagged": sum(len(one["models_tagged"]) for one in report["datasets"]),
        "raw_samples": sum(deleted.get("raw_samples", {}).values()),
        "erased_rows": sum(proof["erased"]["rows"].values()) if proof else 0,
        "searched_files": sum(one["files"] for one in proof["searched"]) if proof else 0,
        "found": len(proof["found"]) if proof else 0,
    }


def _confirm(raw: Sequence[RawSnapshot], outcomes: Sequence[TakedownResult], leftovers: Sequence[Leftovers]) -> bool:
    """Ask on the terminal whether to delete, and return the answer."""
    samples, versions = sum(len(one.hits) for one in raw), sum(o.successor is not None for o in outcomes)
    images, objects = format_quantity(samples, "image"), sum(len(one.objects) for one in leftovers)
    sys.stderr.write(
        f"Delete {images} from raw shards, {format_quantity(versions, 'superseded dataset version')},"
        f" {format_quantity(objects, 'object')} of unfinished work, and the kept originals? [y/N] "
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _delete(
    store: Store,
    context: Context,
    search: Search,
    raw: Sequence[RawSnapshot],
    outcomes: Sequence[TakedownResult],
    leftovers: Sequence[Leftovers],
    targets: Sequence[Target],
) -> dict[str, Any]:
    """Delete in an order in which a killed call leaves what the next one needs to find the rest.

    URLs of originals are in raw snapshots, and uids of images in dataset versions; so originals go first, datasets last.
    """
    refused: dict[str, str] = {}

    def attempt(what: str, delete: Callable[[], int]) -> int:
        try:
            return delete()
        except PairmillError as error:
            refused[what] = str(error)
            return 0

    urls = find_urls(search, raw)
    originals = sum(
        attempt(folder, lambda hook=hook, folder=folder: load_hooks()[hook].erase(folder, urls, targets))
        for hook, folder in _list_copies(store)
    )
    samples = {
        one.download.key: attempt(f"download/{one.download.key}", lambda one=one: delete_raw(context, one, targets))
        for one in raw
    }
    objects = sum(
        attempt(str(one.snapshot), lambda one=one: delete_leftovers(context, one.snapshot, targets))
        for one in leftovers
    )
    superseded: list[str] = []
    for outcome in outcomes:
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
