"""`pairmill takedown`: records a request, makes the next dataset versions, tags models, deletes, and reports.

It can be killed at any moment. Started again with the same file, it reuses what is complete and does the rest.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dataops import plugins
from dataops.errors import ConfigError, CorruptPart, StorageError
from dataops.formatting import format_counts, format_quantity
from dataops.snapshot import MANIFEST
from dataops.store import Store
from dataops.trace.requests import (
    Report,
    Request,
    load_report,
    make_request,
    record_request,
    report_name,
)
from dataops.trace.targets import Target
from flows.commands.options import Json, StoreUri, Yes
from flows.commands.output import Output, console, print_json
from flows.config import load_config
from flows.records import known_stores
from infra.local import services
from plugins.erasure.erasure import Erasure, show
from plugins.erasure.leftovers import find_leftovers
from plugins.erasure.next_versions import TakedownResult, find_affected, replace_affected, tag_again
from plugins.erasure.raw_images import find_uids_by_phash
from plugins.erasure.request_log import Letter, RequestLog, load_log, make_letter
from plugins.erasure.seen_store import remember
from plugins.erasure.target_files import LISTED, read_targets
from tasks.engine.context import Context, Executor, LocalExecutor
from tasks.lineage.graph import Lineage
from tasks.search import Search
from tasks.tracking.registry import Registry

logger = logging.getLogger(__name__)


def command(
    file: Path,
    *more: Path,
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
    execution: Annotated[
        Path | None,
        Parameter(
            help="With --delete-raw: a config whose [execution] names the workers that search.", show_default=False
        ),
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Remove pairs from every dataset, tag the models that were trained on them, and verify that none is left.

    With --delete-raw, also erase them from reports, caches and MLflow, and search everything that pairmill wrote.

    Args:
        file: URLs, domains, uids, sha256, phash:HEX, image:PATH, one per line; or CSV (kind, value).
        more: Files of further requests: all are applied by one next version of each dataset.
    """
    requests = [(make_request(targets, reason), targets) for targets in map(read_targets, (file, *more))]
    if delete_raw and not yes and not sys.stdin.isatty():
        raise ConfigError(
            "--delete-raw deletes permanently, and there is no terminal on which to confirm it; add --yes"
        )
    call = _Call(
        services.home(),
        make_letter(requested_by, received, due, reason),
        bool(requested_by or received or due),
        delete_raw,
        yes,
        known_stores(services.home(), store),
        None if json else console(),
        load_config(execution).execution.executor() if execution else LocalExecutor(),
    )
    reports = [_take_down_in_store(call, requests, one) for one in call.stores]
    by_request = [
        {"request": request.digest, "targets": list(request.targets), "stores": [found[number] for found in reports]}
        for number, (request, _) in enumerate(requests)
    ]
    if json:
        print_json(by_request[0] if len(by_request) == 1 else {"requests": by_request})
    return 3 if any(report["incomplete"] for found in reports for report in found) else 0


@dataclass(frozen=True)
class _Call:
    """What one call does, in all stores."""

    home: Path
    letter: Letter
    is_named: bool
    """It names who asked, or when."""
    deletes_raw: bool
    is_confirmed: bool
    stores: Sequence[Store]
    out: Output | None
    executor: Executor
    """Workers that search."""


@dataclass
class _Begun:
    """A request whose next versions are made, and what its report has by then."""

    request: Request
    targets: Sequence[Target]
    log: RequestLog
    outcomes: list[TakedownResult]
    uids: set[str]
    earlier: Report
    report: dict[str, Any]
    tagged_again: list[dict[str, Any]]
    """Datasets of the earlier report, with models that it could not tag."""


def _take_down_in_store(
    call: _Call, requests: Sequence[tuple[Request, Sequence[Target]]], store: Store
) -> list[dict[str, Any]]:
    """Return the report of each request. The first next version of a dataset applies all, and one pass deletes for all."""
    new = [record_request(store, request) for request, _ in requests]  # before all else: runs from now on apply them
    lineage = Lineage(remember(store))
    search = Search(lineage.store)
    with explain_deletion(lineage):
        begun = [_begin(call, *o, store, lineage, search, new=is_new) for o, is_new in zip(requests, new, strict=True)]
    going = [one for one in begun if one is not None]
    nothing = {"store": store.uri, "incomplete": False, "datasets": []}
    if not going:
        return [nothing for _ in requests]
    out, erasure = call.out, _collect(call, going, store, lineage, search)
    for one in going:
        _complete_report(one, erasure, lineage.store)
        if call.deletes_raw:  # a killed call leaves the uids and the next versions
            _put_report(store, one.request, one.report)
        if out:
            _show_report(one.report, out)
    deleted = {}
    if call.deletes_raw and (call.is_confirmed or _confirm(erasure.question())):
        deleted = erasure.delete()
    for one in going:
        one.report |= deleted
        one.report["incomplete"] = _incomplete(one.report, deletes_raw=call.deletes_raw)
        _put_report(store, one.request, one.report)
        one.log.end(is_complete=not one.report["incomplete"]).save(store)
        if out:
            show(one.report, out)
            _show_end(one.report, report_name(one.request.digest), out)
    return [nothing if one is None else one.report for one in begun]


@contextmanager
def explain_deletion(lineage: Lineage) -> Iterator[None]:
    """Name the remedy for an error of a snapshot that another process has deleted since the lineage was read."""
    try:
        yield
    except (StorageError, CorruptPart) as error:
        if all(lineage.store.size(f"{name}/{MANIFEST}") is not None for name in lineage.manifests):
            raise
        remedy = "another takedown or gc deletes snapshots at the same time; repeat the takedown after it"
        raise StorageError(f"{error}: {remedy}") from error


def _begin(
    call: _Call,
    request: Request,
    targets: Sequence[Target],
    store: Store,
    lineage: Lineage,
    search: Search,
    *,
    new: bool,
) -> _Begun | None:
    """Make the next versions of a request; None if the store has nothing on which a later run could apply it."""
    seen = lineage.store
    if new and not lineage.manifests and not find_leftovers(lineage.inventory, targets):
        store.delete([request.name])
        return None
    log = load_log(seen, request.digest, len(targets))
    log = log.begin(call.letter, is_named=call.is_named, deletes_raw=call.deletes_raw)
    log.save(store)
    found = find_affected(lineage, search, request, Registry())
    context = Context(store=seen, home=call.home, run_id=f"takedown-{request.digest}")
    outcomes = replace_affected(lineage, context, request, found)
    earlier = load_report(seen, report_name(request.digest))  # its datasets may be deleted
    uids = {uid for one in found for uid in one.uids}.union(earlier.uids, find_uids_by_phash(lineage, search, targets))
    head = {"store": store.uri, "request": request.model_dump(mode="json") | {"digest": request.digest, "new": new}}
    held = {one.dataset.key for one in found}
    reported = [one for one in earlier.datasets if one["dataset"] not in held]
    return _Begun(request, targets, log, outcomes, uids, earlier, head, tag_again(request, reported))


def _collect(call: _Call, begun: Sequence[_Begun], store: Store, lineage: Lineage, search: Search) -> Erasure:
    requests = [one.request.digest for one in begun]
    return Erasure(
        Context(store=store, home=call.home, run_id=f"takedown-{requests[0]}", executor=call.executor),
        call.stores,
        lineage,
        search,
        requests,
        list(dict.fromkeys(target for one in begun for target in one.targets)),
        [outcome for one in begun for outcome in one.outcomes],
        {uid for one in begun for uid in one.uids},
        call.deletes_raw,
    )


def _complete_report(begun: _Begun, erasure: Erasure, seen: Store) -> None:
    """Add what is known before the deletion."""
    earlier, outcomes, report = begun.earlier, begun.outcomes, begun.report
    matched = {target for one in outcomes for target in one.affected.targets}
    unmatched = [str(target) for target in erasure.find_unmatched(begun.targets, matched)]
    if earlier.unmatched is not None:  # what an earlier call deleted matches nothing now
        unmatched = [target for target in unmatched if target in earlier.unmatched]
    report |= {
        "unmatched": unmatched,
        "uids": sorted(begun.uids),
        "versions": earlier.versions | {o.affected.dataset.key: o.successor.key for o in outcomes if o.successor},
        "datasets": [*(outcome.as_json() for outcome in outcomes), *begun.tagged_again],
        **erasure.count(),
        "deleted": {},
        "search": {},
    }
    held = {o.affected.dataset.key for o in outcomes} | earlier.versions.keys()
    notes = plugins.load("publications").values()
    report["published"] = [one for note in notes for one in note(seen, held, report["versions"])]


def _put_report(store: Store, request: Request, report: Mapping[str, Any]) -> None:
    store.put(report_name(request.digest), json.dumps(report, indent=2).encode())


def _incomplete(report: Mapping[str, Any], *, deletes_raw: bool) -> bool:
    missed = any(one["trouble"] or one["models_not_tagged"] for one in report["datasets"])
    left = report["raw_snapshots"] or report["leftovers"] or report["deleted"].get("not_deleted")
    proof = report["search"]
    left = left or not proof or proof["found"] or proof["could_not_search"] or proof["not_erased"]
    return missed or bool(deletes_raw and left)


def _confirm(question: str) -> bool:
    """Ask on the terminal, and return the answer."""
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show_report(report: Mapping[str, Any], out: Output) -> None:
    """Print what a takedown made, before it deletes anything."""
    request = report["request"]
    known = "recorded" if request["new"] else "already recorded"
    targets, unmatched = format_quantity(len(request["targets"]), "target"), report["unmatched"]
    title = f"Takedown {request['digest']} in {report['store']}: {targets}, {known}"
    out.write(title, "bold")
    if not report["datasets"]:
        out.write("No dataset has any of these pairs. Later runs leave them out.")
    if unmatched:
        some = "; check them" if len(unmatched) <= LISTED else f"; check them, here the first {LISTED}"
        head = f"No pair and no raw image here matches {len(unmatched):,} of {targets}{some}:"
        out.write(head, "yellow")
        for target in unmatched[:LISTED]:
            out.write(f"  {target}")
    for dataset in report["datasets"]:
        out.print()
        where = f"{format_quantity(dataset['pairs'], 'pair')} in {format_quantity(len(dataset['shards']), 'shard')}"
        out.write(f"dataset {dataset['dataset']}: {where} ({', '.join(dataset['shards'][:8])})", "bold")
        if dataset["sources"]:
            out.write(f"  by source: {format_counts(dataset['sources'].items())}")
        if dataset["trouble"]:
            out.write(f"  NO NEXT VERSION: {dataset['trouble']}", "red")
        else:
            shards = (
                f"{format_quantity(len(dataset['rewritten']), 'shard')} rewritten, {dataset['unchanged']} unchanged"
            )
            out.write(f"  next version {dataset['next']}: {shards}", "green")
        for line in dataset["proof"]:
            out.write(f"  proof: {line}")
        for uri in dataset["models_tagged"]:
            out.write(f"  {uri} was trained on them: tagged in MLflow")
        for uri, why in dataset["models_not_tagged"].items():
            out.write(f"  {uri} was trained on them: NOT TAGGED: {why}", "red")


def _show_end(report: Mapping[str, Any], report_name: str, out: Output) -> None:
    """Print where the pairs were published, and the report."""
    for one in report["published"]:
        what = f"{one['name']} was published to {one['target']} at {one['published_at'] or one['began_at']}"
        out.write(f"{what}: {one['remedy']}", "yellow")
    out.write(f"report: {report['store']}/{report_name}")
