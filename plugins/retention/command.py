"""`pairmill gc`: lists the snapshots that no kept run and no registered model needs, and deletes them with --yes.

Run records are kept: they are small, and they are the history. A run whose snapshots were deleted can still be rerun; the
rerun makes them again.
"""

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError
from dataops.formats import NewerFormat
from dataops.formatting import format_bytes, format_quantity, rank_counts
from dataops.snapshot import SnapshotName
from dataops.storage.cached_files import delete_unheld, find_abandoned
from dataops.store import Entry, Store
from dataops.trace.requests import Report, list_reports, load_report, select_requests
from flows.commands.options import Json, StoreUri, Yes
from flows.commands.output import console, new_table, print_json, print_waits, text
from flows.records import RunRecord, known_stores, read_record
from infra.local import services
from plugins.retention.deletion import Deletion, DeletionPlan, DeletionResult, delete_unneeded, plan_deletions
from plugins.retention.local_files import find_abandoned_folders, find_unused, last_modified
from plugins.retention.model_versions import OldModel, delete_old_models, find_old_models, snapshots_of
from plugins.retention.registered_models import find_needed_snapshots, find_unknown_models
from tasks.engine.context import Context
from tasks.engine.lease import find_holder
from tasks.growth.versions import list_newest
from tasks.lineage.inventory import DAY, Inventory

logger = logging.getLogger(__name__)

KEEP_RUNS = 10
RUNNING = "a run that is running"
NEW_VERSION = "a dataset version that a takedown made within a day"
RERUN_DAYS = 30
"""Number of days for which a run that did not complete is kept to be rerun, however many newer runs there are."""
CACHE_DAYS = 30
"""Number of days for which a cached file that no command uses is kept, if no other age is given."""
UNITS = {"h": 3600.0, "d": DAY, "w": 7 * DAY}


@dataclass(frozen=True)
class Policy:
    """Selects the runs to keep: the newest of each name, or those below an age; and runs that can still be rerun."""

    keep_runs: int | None = KEEP_RUNS
    max_age: float | None = None
    """Maximum age, in seconds."""

    def select_kept(self, records: Sequence[RunRecord], now: float) -> dict[str, str]:
        """Return the ids of the runs to keep, each with the reason."""
        kept: dict[str, str] = {}
        seen: Counter[str] = Counter()
        for record in sorted(records, key=lambda r: (r.created_at, r.run_id), reverse=True):
            age = now - _last_active(record)
            seen[record.name] += 1
            if record.actual_state() == "running" and record.attempts and record.attempts[-1].is_local():
                kept[record.run_id] = RUNNING
            elif self.keep_runs is not None and seen[record.name] <= self.keep_runs:
                kept[record.run_id] = (
                    "the newest run of its name"
                    if self.keep_runs == 1
                    else f"one of the {self.keep_runs} newest runs of its name"
                )
            elif self.max_age is not None and age < self.max_age:
                kept[record.run_id] = f"a run younger than {self.max_age / DAY:g} days"
            elif record.state != "completed" and age < (self.max_age or RERUN_DAYS * DAY):
                kept[record.run_id] = "a run that can be rerun"
        return kept

    @classmethod
    def from_options(cls, keep_runs: int | None, older_than: str | None) -> "Policy":
        """Return the policy of the command line's options. Raises: ConfigError if they are not valid."""
        if older_than is None:
            keep_runs = KEEP_RUNS if keep_runs is None else keep_runs
            if keep_runs >= 0:
                return cls(keep_runs)
        elif keep_runs is None:
            return cls(None, parse_age(older_than))
        raise ConfigError("use either --keep-runs with a number of runs (at least 0), or --older-than with an age")


def parse_age(text: str) -> float:
    """Return the seconds of an age such as `12h`, `30d` or `8w`. Raises: ConfigError if it is not one."""
    if not (match := re.fullmatch(r"([0-9]{1,6})([hdw])", text.strip())):
        raise ConfigError(f"--older-than {text!r}: write a number of hours, days or weeks, as in 12h, 30d or 8w")
    return int(match[1]) * UNITS[match[2]]


def _last_active(record: RunRecord) -> float:
    times = [record.created_at, *(t for a in record.attempts for t in (a.started_at, a.ended_at) if t)]
    return max(datetime.fromisoformat(text).timestamp() for text in times)


def _list_named_datasets(record: RunRecord) -> list[str]:
    """Return the datasets that the config of a run names, which it may not have read yet."""
    values = record.config.get("train")
    found = values.get("dataset") if isinstance(values, Mapping) else None
    tables = found if isinstance(found, list) else []
    return [key for table in tables if isinstance(table, Mapping) and isinstance(key := table.get("key"), str)]


class Roots:
    """Finds the snapshots that the kept runs and the registered models of a store need; each call finds them anew."""

    def __init__(self, store: Store, policy: Policy):
        self.store, self.policy = store, policy
        self.records: dict[str, RunRecord] = {}
        self._read: dict[str, tuple[int, float]] = {}
        self.models: dict[SnapshotName, str] = {}
        self.new_versions: dict[SnapshotName, str] = {}
        self._reports: dict[Entry, Report] = {}
        self.kept: dict[str, str] = {}
        """Ids of the kept runs with the reasons, as of the last call."""

    def read_registry(self, without: Container[str] = ()) -> None:
        """Read which snapshots the registered models need, without those of versions that will be deleted.

        Raises: ServiceError if MLflow does not answer, ConfigError if it refuses.
        """
        self.models = find_needed_snapshots(without)
        inventory = Inventory(self.store, "register")
        found = {name: inventory.manifest(name) for name in inventory.snapshots if name not in self.models}
        self.models |= find_unknown_models({name: manifest for name, manifest in found.items() if manifest})

    def read_takedowns(self) -> None:
        """Read which dataset versions a takedown made within a day: no run has used them yet."""
        datasets = Inventory(self.store, "pack")
        for name, snapshot in datasets.snapshots.items():
            manifest = datasets.manifest(name) if time.time() - snapshot.modified < DAY else None
            if manifest and select_requests(manifest.inputs):
                self.new_versions[name] = NEW_VERSION

    def __call__(self) -> dict[SnapshotName, str]:
        """Return the snapshots to keep, with reasons; only run records that changed since the last call are read."""
        self._read_records()
        roots = self.models | self.new_versions
        self.kept = self.policy.select_kept(list(self.records.values()), time.time())
        self.kept |= {run_id: RUNNING for run_id, record in self.records.items() if self._holds_lease(record)}
        for run_id, why in self.kept.items():
            for stage in self.records[run_id].stages:
                for key in filter(None, (stage.key, stage.before)):
                    roots.setdefault(SnapshotName(stage.stage, key), why)
            for key in _list_named_datasets(self.records[run_id]):
                roots.setdefault(SnapshotName("pack", key), why)
        for version in list_newest(self.store):
            for pack in version.packs:
                roots.setdefault(SnapshotName("pack", pack.key), f"version {version.number} of {version.line}")
        self._add_next_versions(roots)
        return roots

    def _add_next_versions(self, roots: dict[SnapshotName, str]) -> None:
        """Add the versions that takedowns made of the needed datasets, which may be deleted."""
        entries = list_reports(self.store)
        self._reports = {e: self._reports.get(e) or load_report(self.store, e.name) for e in entries}
        for entry, report in self._reports.items():
            if time.time() - entry.modified < DAY:  # it may name a version that an earlier takedown or a run made
                for key in report.versions.values():
                    roots.setdefault(SnapshotName("pack", key), NEW_VERSION)
        waiting = list(roots.items())
        while waiting:
            name, why = waiting.pop()
            keys = {report.versions.get(name.key) for report in self._reports.values()} if name.stage == "pack" else ()
            for new in [SnapshotName("pack", key) for key in keys if key]:
                if new not in roots:
                    roots[new] = why
                    waiting.append((new, why))

    def _holds_lease(self, record: RunRecord) -> bool:
        """Return whether a run of another machine, which the policy does not keep, still makes a snapshot."""
        if record.run_id in self.kept or record.actual_state() != "running":
            return False
        return any(find_holder(self.store, s.stage, s.key) for s in record.stages if s.state == "Running")

    def _read_records(self) -> None:
        for entry in self.store.entries("runs"):
            version = (entry.bytes, entry.modified)
            # A store may keep times in whole seconds, so a record may change twice and keep the same time.
            if self._read.get(entry.name) == version and time.time() - entry.modified > 60:
                continue
            try:
                record = read_record(self.store, entry.name)
            except NewerFormat:
                raise
            except ConfigError as error:
                raise ConfigError(
                    f"{error}; so the snapshots that its run needs are unknown, and nothing is deleted. Restore the file "
                    "from a backup; to give up that run and what only it needs, move the file out of the store"
                ) from error
            self.records[record.run_id], self._read[entry.name] = record, version

    def used_by(self) -> dict[SnapshotName, str]:
        """Return the newest run that used each snapshot."""
        users: dict[SnapshotName, str] = {}
        for record in sorted(self.records.values(), key=_last_active):
            users |= {SnapshotName(stage.stage, stage.key): record.run_id for stage in record.stages}
        return users


def gc(
    *,
    keep_runs: Annotated[
        int | None, Parameter(help="Number of newest runs to keep of each name (default: 10).")
    ] = None,
    older_than: Annotated[
        str | None, Parameter(help="Instead: keep the runs below this age, such as 12h, 30d or 8w.")
    ] = None,
    keep_versions: Annotated[
        int | None,
        Parameter(
            help="Also delete registered versions: all but those with an alias, those that a kept run or version names, "
            "and so many newest of each model."
        ),
    ] = None,
    store: StoreUri = None,
    yes: Annotated[Yes, Parameter(help="Delete; without it, only list.")] = False,
    json: Json = False,
) -> int:
    """Delete the snapshots that no kept run and no registered model needs, and leftovers of killed processes."""
    policy = Policy.from_options(keep_runs, older_than)
    if keep_versions is not None and keep_versions < 1:
        raise ConfigError(f"--keep-versions {keep_versions}: keep at least the newest version of each model, 1")
    try:
        return collect_garbage(services.home(), store, policy, keep_versions, delete=yes, as_json=json)
    except NewerFormat as error:
        raise NewerFormat(f"gc deletes nothing in a store that a newer pairmill writes to: {error}") from error


def collect_garbage(
    home: Path, store_uri: str | None, policy: Policy, keep_versions: int | None, *, delete: bool, as_json: bool
) -> int:
    """List, and with `delete` also delete, what is not needed in one store or all known ones, and on this machine's disk.

    Args:
        keep_versions: number of newest versions of each registered model to keep; None: all.

    Raises: ServiceError if MLflow does not answer; ConfigError if it refuses, or a run record cannot be read.
    """
    if home.is_dir():  # else nothing is known, and a new registry has none of the models that a store's snapshots serve
        with print_waits():
            services.up()
        services.apply_environment()
    # The job folders of all stores are under one home, so a run of any store may need one.
    all_roots = {store.uri: Roots(store, policy) for store in known_stores(home, store_uri)}
    models = _find_models(keep_versions, list(all_roots.values()))
    if not as_json:
        _show_models(models, delete=delete)
    if delete:
        delete_old_models(models)
    results = []
    for uri, roots in all_roots.items():
        if store_uri is None or uri == next(iter(all_roots)):
            if home.is_dir() or store_uri is not None:
                roots.read_registry(snapshots_of(models))
            roots.read_takedowns()
            results.append(_collect_in_store(roots, home, delete=delete, as_json=as_json))
        else:
            roots()
    local = {path: _bytes_of(path) for path in _find_local(home, list(all_roots.values()))}
    unused = max(policy.max_age or CACHE_DAYS * DAY, DAY)
    cached = {path: _bytes_of(path) for path in find_unused(home, unused)}
    if delete:
        for path in [*local, *cached]:
            delete_unheld(path)
    if as_json:
        lists = {"local": [str(path) for path in local], "cached": [str(path) for path in cached]}
        versions = [{"name": model.name, "bytes": model.bytes} for model in models]
        print_json({"deleted": delete, "stores": results, "models": versions, **lists})
    else:
        _show_local(local, "folder", "of ended processes in", delete=delete)
        _show_local(cached, "entry", f"unused for {unused / DAY:g} days in", delete=delete)
        if not delete:
            console().print()
            console().write("Nothing was deleted; add --yes to delete what is listed.")
    return 0


def _find_models(keep: int | None, all_roots: Sequence[Roots]) -> list[OldModel]:
    if keep is None:
        return []
    for roots in all_roots:
        roots()
    configs = [roots.records[run_id].config for roots in all_roots for run_id in roots.kept]
    return find_old_models(keep, [roots.store for roots in all_roots], configs)


def _collect_in_store(roots: Roots, home: Path, *, delete: bool, as_json: bool) -> dict[str, object]:
    plan = plan_deletions(roots.store, roots())
    users = roots.used_by()
    if not as_json:
        _show(roots.store, plan, users)
    result = DeletionResult()
    if delete:
        context = Context(store=roots.store, home=home, run_id="gc")
        result = delete_unneeded(plan, context, roots)
        if not as_json and (result.deleted or result.spared or result.unfinished):
            _show_deleted(result)
    return _as_json(roots.store, plan, result, users)


def _find_local(home: Path, all_roots: Sequence[Roots]) -> list[Path]:
    """Return unneeded folders of this machine: jobs that no kept run can resume, and folders of ended processes."""
    unfinished: set[str] = set()
    for roots in all_roots:
        for run_id in roots.kept:
            if (record := roots.records[run_id]).state != "completed":
                unfinished |= {stage.key for stage in record.stages}
    jobs = sorted((home / "jobs").iterdir()) if (home / "jobs").is_dir() else []
    return [
        job for job in jobs if unfinished.isdisjoint(job.name.split("-")) and time.time() - last_modified(job) > DAY
    ] + [*find_abandoned(home), *find_abandoned_folders()]


def _bytes_of(entry: Path) -> int:
    """Return the size of a file, or of all that is in a folder."""
    total = 0
    for path in entry.rglob("*") if entry.is_dir() else [entry]:
        with suppress(OSError):  # deleted meanwhile
            total += path.lstat().st_size
    return total


# Output ---------------------------------------------------------------------------------------------------------------


def _show(store: Store, plan: DeletionPlan, users: Mapping[SnapshotName, str]) -> None:
    out, now = console(), time.time()
    if not plan.snapshots and not plan.kept:
        return
    if not plan.snapshots:
        out.write(f"Nothing to delete from {store.uri}", "bold")
    for why in sorted({deletion.why for deletion in plan.snapshots}):
        columns = ("snapshot", "size", "age", "last run")
        table = new_table(f"To delete from {store.uri} ({why})", *columns, right=["size", "age"])
        for deletion in plan.snapshots:
            if deletion.why == why:
                size, age = format_bytes(deletion.bytes), _age(now - deletion.modified)
                table.add_row(str(deletion.name), size, age, text(users.get(deletion.name, "")))
        out.print(table)
    if plan.work:
        out.write(f"and the scratch objects of {format_quantity(len(plan.work), 'complete snapshot')}")
    if plan.memories:
        entries = format_quantity(len(plan.memories), "index entry", "index entries")
        out.write(f"and {entries} of source files")
    if plan.snapshots:
        total = format_bytes(sum(deletion.bytes for deletion in plan.snapshots))
        out.write(f"in total {format_quantity(len(plan.snapshots), 'snapshot')}, {total}")
    kept = len(plan.kept)
    out.write(f"{format_quantity(kept, 'snapshot')} {'is' if kept == 1 else 'are'} kept{':' if kept else ''}")
    for why, number in rank_counts(Counter(plan.kept.values())):
        out.write(f"{number:>6,} for {why}")


def _show_models(models: Sequence[OldModel], *, delete: bool) -> None:
    if not models:
        return
    table = new_table("Registered models to delete", "model", "size", right=["size"])
    for model in models:
        table.add_row(
            text(model.name if model.version else f"{model.name}, without a version"), format_bytes(model.bytes)
        )
    console().print(table)
    total = f"{format_quantity(len(models), 'model')}, {format_bytes(sum(model.bytes for model in models))}"
    console().write(f"{'deleting' if delete else 'in total'} {total}")


def _show_deleted(result: DeletionResult) -> None:
    out = console()
    freed = format_bytes(sum(deletion.bytes for deletion in result.deleted))
    more = f", and {format_quantity(result.unfinished, 'unfinished file or upload', 'unfinished files or uploads')}"
    deleted = format_quantity(len(result.deleted), "snapshot")
    out.write(f"deleted {deleted}, {freed}{more if result.unfinished else ''}")
    for name, why in result.spared.items():
        out.write(f"kept {name} after all: {why}")


def _show_local(local: Mapping[Path, int], noun: str, what: str, *, delete: bool) -> None:
    """Print one line for each folder that has unneeded entries: there may be many of killed processes."""
    for parent in sorted({path.parent for path in local}):
        sizes = [size for path, size in local.items() if path.parent == parent]
        entries = format_quantity(len(sizes), noun, "entries" if noun == "entry" else None)
        left = f"{entries} {what} {parent}, {format_bytes(sum(sizes))}"
        console().write(f"{'deleted' if delete else 'to delete'}: {left}")


def _as_json(
    store: Store, plan: DeletionPlan, result: DeletionResult, users: Mapping[SnapshotName, str]
) -> dict[str, object]:
    def row(deletion: Deletion) -> dict[str, object]:
        name, age = deletion.name, round(time.time() - deletion.modified)
        fields = {"stage": name.stage, "key": name.key, "bytes": deletion.bytes, "why": deletion.why}
        return {**fields, "age_seconds": age, "last_run": users.get(name)}

    kept: dict[str, list[str]] = defaultdict(list)
    for name, why in sorted(plan.kept.items()):
        kept[why].append(str(name))
    return {
        "store": store.uri,
        "snapshots": [row(deletion) for deletion in plan.snapshots],
        "work": [str(name) for name in plan.work],
        "memories": [entry.name for entry in plan.memories],
        "kept": kept,
        "deleted": [str(deletion.name) for deletion in result.deleted],
        "spared": {str(name): why for name, why in result.spared.items()},
        "unfinished": result.unfinished,
    }


def _age(seconds: float) -> str:
    return f"{seconds / DAY:.0f} d" if seconds >= 2 * DAY else f"{max(seconds, 0) / 3600:.0f} h"
