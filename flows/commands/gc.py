"""`pairmill gc`: deletes what no kept run and no registered model needs. Says first what, and deletes with --yes only.

Run records are kept: they are small, and they are the history. A run whose snapshots are gone can still be rerun; it makes
them again.
"""

import logging
import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import SnapshotName
from dataops.store import Store
from flows.commands.output import console, new_table, print_json, text
from flows.records import RunRecord, stores
from infra.local import services
from tasks.engine.context import Context
from tasks.engine.lease import holder
from tasks.engine.scratch_folders import abandoned
from tasks.lineage.garbage_collection import Deletion, DeletionPlan, DeletionResult, delete_unneeded, plan_deletions
from tasks.lineage.inventory import DAY, Inventory
from tasks.tracking.registry import find_needed_snapshots, find_unknown_models

logger = logging.getLogger(__name__)

KEEP_RUNS = 10
RERUN_DAYS = 30
"""So long a run that did not end well is kept to be rerun, however many runs came after it."""
UNITS = {"h": 3600.0, "d": DAY, "w": 7 * DAY}


@dataclass(frozen=True)
class Policy:
    """Which runs are kept: the newest of each name, or the younger ones; and those that can still be rerun."""

    keep_runs: int | None = KEEP_RUNS
    max_age: float | None = None
    """Seconds."""

    def kept(self, records: Sequence[RunRecord], now: float) -> dict[str, str]:
        """Ids of the runs that are kept, each with the reason."""
        kept: dict[str, str] = {}
        seen: Counter[str] = Counter()
        for record in sorted(records, key=lambda r: (r.created_at, r.run_id), reverse=True):
            age = now - _last_active(record)
            seen[record.name] += 1
            if record.actual_state() == "running" and record.attempts and record.attempts[-1].is_local():
                kept[record.run_id] = "runs now"
            elif self.keep_runs is not None and seen[record.name] <= self.keep_runs:
                kept[record.run_id] = f"of the {self.keep_runs} newest runs of its name"
            elif self.max_age is not None and age < self.max_age:
                kept[record.run_id] = f"a run younger than {self.max_age / DAY:g} days"
            elif record.state != "completed" and age < (self.max_age or RERUN_DAYS * DAY):
                kept[record.run_id] = "a run that can be rerun"
        return kept

    @classmethod
    def of(cls, keep_runs: int | None, older_than: str | None) -> "Policy":
        """From the command line. Raises: ConfigError."""
        if older_than is None:
            keep_runs = KEEP_RUNS if keep_runs is None else keep_runs
            if keep_runs >= 0:
                return cls(keep_runs)
        elif keep_runs is None:
            return cls(None, parse_age(older_than))
        raise ConfigError("give --keep-runs, a number of runs, or --older-than, an age; not both")


def parse_age(text: str) -> float:
    """Seconds of `12h`, `30d` or `8w`. Raises: ConfigError."""
    if not (match := re.fullmatch(r"(\d+)([hdw])", text.strip())):
        raise ConfigError(f"--older-than {text!r}: write hours, days or weeks, as 12h, 30d or 8w")
    return int(match[1]) * UNITS[match[2]]


def _last_active(record: RunRecord) -> float:
    times = [record.created_at, *(t for a in record.attempts for t in (a.started_at, a.ended_at) if t)]
    return max(datetime.fromisoformat(text).timestamp() for text in times)


class Roots:
    """What the kept runs and the registered models of a store need, asked again as often as needed."""

    def __init__(self, store: Store, policy: Policy):
        self.store, self.policy = store, policy
        self.records: dict[str, RunRecord] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self.models: dict[SnapshotName, str] = {}
        self.kept: dict[str, str] = {}
        """Ids of the kept runs and why, as of the last look."""

    def ask_registry(self) -> None:
        """Learn what the registered models need. Raises: ServiceError, ConfigError where MLflow cannot be asked."""
        self.models = find_needed_snapshots()
        inventory = Inventory(self.store, "register")
        found = {name: inventory.manifest(name) for name in inventory.snapshots if name not in self.models}
        self.models |= find_unknown_models({name: manifest for name, manifest in found.items() if manifest})

    def __call__(self) -> dict[SnapshotName, str]:
        """The roots now: only run records that changed since the last look are read."""
        self._read_records()
        roots = dict(self.models)
        self.kept = self.policy.kept(list(self.records.values()), time.time())
        self.kept |= {run_id: "runs now" for run_id, record in self.records.items() if self._beats(record)}
        for run_id, why in self.kept.items():
            for stage in self.records[run_id].stages:
                roots.setdefault(SnapshotName(stage.stage, stage.key), why)
        return roots

    def _beats(self, record: RunRecord) -> bool:
        """Whether a run that is not kept for itself, long begun on another machine, still makes a snapshot."""
        if record.run_id in self.kept or record.actual_state() != "running":
            return False
        return any(holder(self.store, s.stage, s.key) for s in record.stages if s.state == "Running")

    def _read_records(self) -> None:
        for entry in self.store.entries("runs"):
            seen = (entry.bytes, entry.modified)
            # A store may keep whole seconds only: a record that changed just now may change again unseen.
            if self._seen.get(entry.name) == seen and time.time() - entry.modified > 60:
                continue
            try:
                record = RunRecord.model_validate_json(self.store.read(entry.name))
            except ValidationError as error:
                raise ConfigError(
                    f"{self.store.uri}/{entry.name} is no run record: what it needs is not known; delete or mend it"
                ) from error
            self.records[record.run_id], self._seen[entry.name] = record, seen

    def used_by(self) -> dict[SnapshotName, str]:
        """The newest run that used each snapshot."""
        users: dict[SnapshotName, str] = {}
        for record in sorted(self.records.values(), key=_last_active):
            users |= {SnapshotName(stage.stage, stage.key): record.run_id for stage in record.stages}
        return users


def collect_garbage(home: Path, store_uri: str | None, policy: Policy, *, delete: bool, as_json: bool) -> int:
    """Look at one store, or at all that this machine knows, and at this machine's own leftovers.

    Raises: ServiceError when MLflow cannot be asked; ConfigError when it refuses or a run record cannot be read.
    """
    services.up()
    services.apply_environment()
    # Job folders lie under one home for all stores, so all stores are asked whether they are needed.
    everywhere = {store.uri: Roots(store, policy) for store in stores(home, store_uri)}
    results = []
    for uri, roots in everywhere.items():
        if store_uri is None or uri == next(iter(everywhere)):
            roots.ask_registry()
            results.append(_one_store(roots, home, delete=delete, as_json=as_json))
        else:
            roots()
    local = _local(home, list(everywhere.values()))
    if delete:
        for path in local:
            shutil.rmtree(path, ignore_errors=True)
    if as_json:
        print_json({"deleted": delete, "stores": results, "local": [str(path) for path in local]})
    else:
        _show_local(local, delete=delete)
    return 0


def _one_store(roots: Roots, home: Path, *, delete: bool, as_json: bool) -> dict[str, object]:
    collection = plan_deletions(roots.store, roots())
    users = roots.used_by()
    if not as_json:
        _show(roots.store, collection, users)
    swept = DeletionResult()
    if delete:
        context = Context(store=roots.store, home=home, run_id="gc")
        swept = delete_unneeded(collection, context, roots)
        if not as_json and (swept.deleted or swept.spared or swept.unfinished):
            _show_swept(swept)
    return _as_json(roots.store, collection, swept, users)


def _local(home: Path, all_roots: Sequence[Roots]) -> list[Path]:
    """Folders of this machine that nothing needs: of jobs that no kept run goes on with, and of dead processes."""
    unfinished: set[str] = set()
    for roots in all_roots:
        for run_id in roots.kept:
            if (record := roots.records[run_id]).state != "completed":
                unfinished |= {f"{stage.stage}-{stage.key}" for stage in record.stages}
    jobs = sorted((home / "jobs").iterdir()) if (home / "jobs").is_dir() else []
    return [job for job in jobs if job.name not in unfinished and time.time() - _touched(job) > DAY] + abandoned()


def _touched(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


# What is printed ------------------------------------------------------------------------------------------------------


def _show(store: Store, collection: DeletionPlan, users: Mapping[SnapshotName, str]) -> None:
    out, now = console(), time.time()
    if not collection.snapshots and not collection.kept:
        return
    if collection.snapshots:
        shown = new_table(
            f"To delete from {store.uri}", "snapshot", "size", "age", "last run", "why", right=["size", "age"]
        )
        for going in collection.snapshots:
            age = _age(now - going.modified)
            shown.add_row(str(going.name), _size(going.bytes), age, text(users.get(going.name, "")), going.why)
        out.print(shown)
    else:
        out.print(text(f"Nothing to delete from {store.uri}", style="bold"))
    more = [f"unfinished work of {len(collection.work)} complete snapshots"] if collection.work else []
    more += [f"{len(collection.memories)} memories of source files"] if collection.memories else []
    if more:
        out.print(text(f"and {', '.join(more)}"))
    if collection.snapshots:
        total = sum(going.bytes for going in collection.snapshots)
        out.print(text(f"in all {len(collection.snapshots)} snapshots, {_size(total)}"))
    reasons = Counter(collection.kept.values())
    listed = "; ".join(f"{n} for {why}" for why, n in sorted(reasons.items(), key=lambda x: (-x[1], x[0])))
    out.print(text(f"{len(collection.kept)} snapshots stay" + (f": {listed}" if listed else "")), soft_wrap=True)


def _show_swept(swept: DeletionResult) -> None:
    out = console()
    freed = _size(sum(going.bytes for going in swept.deleted))
    left = f", and {swept.unfinished} files or uploads that were never finished" if swept.unfinished else ""
    out.print(text(f"deleted {len(swept.deleted)} snapshots, {freed}{left}"))
    for name, why in swept.spared.items():
        out.print(text(f"spared {name}: {why}"), soft_wrap=True)


def _show_local(local: Sequence[Path], *, delete: bool) -> None:
    out = console()
    for path in local:
        out.print(text(f"{'deleted' if delete else 'to delete'}: {path}"), soft_wrap=True)
    if not delete:
        out.print(text("\nNothing was deleted; --yes deletes what is listed."))


def _as_json(
    store: Store, collection: DeletionPlan, swept: DeletionResult, users: Mapping[SnapshotName, str]
) -> dict[str, object]:
    def row(going: Deletion) -> dict[str, object]:
        fields = {"stage": going.name.stage, "key": going.name.key, "bytes": going.bytes, "why": going.why}
        return {**fields, "age_seconds": round(time.time() - going.modified), "last_run": users.get(going.name)}

    kept: dict[str, list[str]] = defaultdict(list)
    for name, why in sorted(collection.kept.items()):
        kept[why].append(str(name))
    return {
        "store": store.uri,
        "snapshots": [row(going) for going in collection.snapshots],
        "work": [str(name) for name in collection.work],
        "memories": [entry.name for entry in collection.memories],
        "kept": kept,
        "deleted": [str(going.name) for going in swept.deleted],
        "spared": {str(name): why for name, why in swept.spared.items()},
        "unfinished": swept.unfinished,
    }


def _size(n: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _age(seconds: float) -> str:
    return f"{seconds / DAY:.0f} d" if seconds >= 2 * DAY else f"{max(seconds, 0) / 3600:.0f} h"
