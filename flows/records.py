"""Run records, which `pairmill runs`, `show` and `rerun` read. They are in the store, so a rerun needs nothing else.

A record is the object `runs/<run_id>.json`, rewritten as its run makes progress. A pointer file under the home folder names
the store of each run of this machine. Several flow runs may work on one record: a first attempt and its reruns, or the
scheduled curation of a dataset, its training on a GPU machine and its evaluation.
"""

import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataops.errors import ConfigError, PairmillError, StorageError
from dataops.facts import Quoted
from dataops.formats import RELEASE, NewerFormat, Stored
from dataops.formatting import format_now, format_quantity
from dataops.messages.waiting import waiting
from dataops.process import pid_namespace, process_fingerprint
from dataops.snapshot import Counts, Manifest, find_manifest
from dataops.stages import PAIR_STAGES, STAGES, RunState
from dataops.store import Store, open_store
from tasks.checks.check import CheckReport
from tasks.engine.context import LEASE_TIMES, LeaseTimes
from tasks.engine.lease import find_holder
from tasks.growth.versions import Version, find_version, has_version

if TYPE_CHECKING:  # importing it takes half a second, which commands that read records need not wait
    from flows.config import RunConfig

logger = logging.getLogger(__name__)

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}-\d{8}T\d{6}-[0-9a-f]{4}")
"""The config's name, the time in UTC and four random hex digits: a run's id, and the name of its flow runs."""

ANY_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
"""Any id that a record may have; a caller of the flow may choose its own."""

StageState = Literal["Running", "Completed", "Reused", "Failed"]
FINISHED = ("Completed", "Reused")
SILENT_SECONDS = 15.0
"""Time without a record after which `list_runs` leaves a store out."""


class StageRun(BaseModel):
    """The state of one stage in one run."""

    model_config = ConfigDict(extra="allow")  # fields of newer versions: dataops.formats

    stage: str
    key: str
    state: StageState
    seconds: float = 0.0
    counts: Counts = Counts()
    cpu_seconds: float | None = Field(default=None, exclude_if=lambda seconds: seconds is None)
    """CPU time of this machine's processes that made the snapshot; None if other machines took part, or none was made."""
    before: str | None = Field(default=None, exclude_if=lambda key: key is None)
    """Key of the snapshot with which the stage had ended before it began again; None once it has ended again."""

    def complete(self, state: StageState, seconds: float, cpu: float | None, counts: Counts) -> None:
        """Set how the stage ended, after how many seconds of wall time and of CPU time."""
        self.state, self.seconds, self.counts, self.before = state, round(seconds, 3), counts, None
        self.cpu_seconds = None if cpu is None or state != "Completed" else round(cpu, 3)


class Attempt(BaseModel):
    """One flow run that works on a run: the first attempt, a rerun, or a flow that runs the next stages."""

    model_config = ConfigDict(extra="allow")  # fields of newer versions: dataops.formats

    started_at: str
    host: str
    pid: int
    place: str | None = None
    """The pid namespace of `pid` (dataops.process.pid_namespace)."""
    process: str | None = None
    """Distinguishes this process from others of the same pid (dataops.process.process_fingerprint)."""
    flow: str = "pipeline"
    until: str | None = None
    """The last stage that this attempt should run; None for all."""
    flow_run_id: str | None = None
    ended_at: str | None = None
    error: Quoted | None = None
    remade: list[str] = Field(default_factory=list, exclude_if=lambda names: not names)
    """Snapshots, as `stage/key`, that this attempt discarded or opened again; a retry of its flow run continues them."""

    def is_local(self) -> bool:
        """Return whether its process is in this process's pid namespace, so that it can be checked."""
        return self.host == socket.gethostname() if self.place is None else self.place == pid_namespace()

    def has_died(self) -> bool:
        """Return whether its process is known to have ended; False for a process of another machine."""
        return self.is_local() and (
            process_fingerprint(self.pid) is None or self.process not in (None, process_fingerprint(self.pid))
        )

    def is_start_of(self, later: "Attempt") -> bool:
        """Return whether this is what a process recorded of an attempt before its flow run began."""
        return self.flow_run_id is None and (self.host, self.pid, self.process) == (
            later.host,
            later.pid,
            later.process,
        )

    def is_pool_training_of(self, earlier: "Attempt") -> bool:
        """Return whether this is a training on a work pool that an earlier attempt started and waited for."""
        waited = earlier.ended_at is None or earlier.ended_at > self.started_at
        return self.flow == "train" and earlier.flow != "train" and waited


class RunRecord(Stored):
    """One run: its config, its attempts, and the state of each stage."""

    release: str | None = Field(default=None, exclude_if=lambda release: release is None)
    """The version of pairmill that began the run; None: 0.1, which did not write it."""
    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=160)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=160)
    created_at: str
    config: dict[str, Any]
    state: RunState = "running"
    attempts: list[Attempt] = Field(default_factory=list)
    stages: list[StageRun] = Field(default_factory=list)
    version: str | None = Field(default=None, exclude_if=lambda version: version is None)
    """The version of a dataset that grows, `line/number`, which the run has made."""
    model_version: str | None = None
    model_links: dict[str, str] = Field(default_factory=dict)
    checks: CheckReport | None = Field(default=None, exclude_if=lambda report: report is None)
    """The checks of the dataset; None if the run has no dataset."""
    announced: list[str] = Field(default_factory=list)
    """The snapshots, as `stage/key`, for which an event was emitted."""

    @property
    def first_flow(self) -> str:
        """The flow of the first attempt: `curate` for a run that triggers continue."""
        return self.attempts[0].flow if self.attempts else "pipeline"

    @property
    def own_attempts(self) -> list[Attempt]:
        """The attempts without trainings on a work pool that another attempt started: those outlive that attempt."""
        return [a for i, a in enumerate(self.attempts) if not any(a.is_pool_training_of(b) for b in self.attempts[:i])]

    @property
    def last_stage(self) -> str | None:
        """The last stage that the newest attempt should run; None for all stages."""
        return self.own_attempts[-1].until if self.attempts else None

    def begin(self, flow: str = "pipeline", until: str | None = None, flow_run_id: str | None = None) -> None:
        """Start an attempt in this process, or continue the one with which this process created the record."""
        self.state = "running"
        here = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "place": pid_namespace(),
            "process": process_fingerprint(os.getpid()),
        }
        times = [time for one in self.attempts for time in (one.started_at, one.ended_at or "")]
        started = max([format_now(), *times])  # attempts are sorted by it, and a clock may have been set back
        attempt = Attempt(started_at=started, **here, flow=flow, until=until, flow_run_id=flow_run_id)
        if self.attempts and self.attempts[-1].is_start_of(attempt):
            attempt.started_at = self.attempts.pop().started_at
        self.attempts.append(attempt)

    def end(self, state: RunState, error: str | None = None) -> None:
        """End the current attempt."""
        self.state = state
        self.attempts[-1].ended_at, self.attempts[-1].error = format_now(), error

    def set_stage(self, run: StageRun) -> None:
        """Set the state of one stage; stages keep the order in which they were first reached."""
        for i, known in enumerate(self.stages):
            if known.stage == run.stage:
                self.stages[i] = run
                return
        self.stages.append(run)

    def begin_stage(self, stage: str, key: str) -> StageRun:
        """Return the state of a stage that begins, also again in a run that is continued, after setting it."""
        self.set_stage(run := StageRun(stage=stage, key=key, state="Running", before=self.last_key_of(stage)))
        return run

    def last_key_of(self, stage: str) -> str | None:
        """Return the key of the snapshot with which a stage ended last; None if it has not.

        While another flow run continues the run, its stages begin again, but what they had made is still there.
        """
        return self.key_of(stage) or next((run.before for run in self.stages if run.stage == stage), None)

    def key_of(self, stage: str) -> str | None:
        """Return the snapshot's key of a stage, or None if this run has not finished the stage."""
        return next((run.key for run in self.stages if run.stage == stage and run.state in FINISHED), None)

    def actual_state(self) -> RunState:
        """Return the state, but `crashed` if the record's state is running and its process on this machine has ended."""
        died = self.state == "running" and self.attempts and self.own_attempts[-1].has_died()
        return "crashed" if died else self.state

    def summary(self) -> dict[str, Any]:
        """Return what `pairmill run --json` prints: `run_id`, `model_version` and `stages`, the fields of StageRun."""
        return self.model_dump(mode="json", include={"run_id", "stages", "model_version"})

    def save(self, store: Store) -> None:
        """Write the record, and keep the attempts that another process has added meanwhile."""
        name = f"runs/{self.run_id}.json"
        known: list[Attempt] = []
        if (data := store.find(name)) is not None:
            with suppress(ValidationError):  # a power loss may leave an empty file
                known = RunRecord.parse(data, f"{store.uri}/{name}").attempts
        known = [a for a in known if not any(a.is_start_of(b) and b.flow_run_id for b in self.attempts)]
        attempts = {(a.started_at, a.host, a.pid, a.flow_run_id): a for a in [*known, *self.attempts]}
        merged = self.model_copy(update={"attempts": sorted(attempts.values(), key=lambda a: a.started_at)})
        store.put(name, merged.model_dump_json(indent=2).encode())


@dataclass(frozen=True)
class Continuation:
    """How a run is continued: the options of `pairmill rerun`, and of a flow that has a run's id."""

    until: str | None
    """The last stage; None for all."""
    remake: tuple[str, ...] = ()
    """Stages whose snapshots are rebuilt."""
    retry: tuple[str, ...] = ()
    """Classes of failure whose rows `download` fetches again."""

    @classmethod
    def of(
        cls, record: RunRecord, from_stage: str | None = None, until: str | None = None, retry: Sequence[str] = ()
    ) -> "Continuation":
        """Return how to continue a run: without a last stage, it ends where it was to end.

        Raises: ConfigError if the options do not fit each other.
        """
        from tasks.download.config import check_patterns

        if from_stage and until and STAGES.index(until) < STAGES.index(from_stage):
            raise ConfigError(f"until {until} comes before from {from_stage}; name that stage or a later one")
        if retry and from_stage != "download":
            raise ConfigError("retry fetches failed rows of download again; let the run continue from download")
        try:
            classes = check_patterns(one.strip() for one in retry)
        except ValueError as error:
            raise ConfigError(f"retry: {error}") from error
        last = until or record.last_stage
        if not until and last and from_stage and STAGES.index(last) < STAGES.index(from_stage):
            last = None
        # With `retry`, no complete snapshot is rebuilt: `download` fetches rows, and the later stages follow from them.
        return cls(last, STAGES[STAGES.index(from_stage) :] if from_stage and not classes else (), classes)


def new_run_id(name: str, when: datetime | None = None) -> str:
    """Return a unique run id; the ids of one name sort by time."""
    return f"{name}-{(when or datetime.now(UTC)).astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def create_run(
    config: "RunConfig", home: Path, run_id: str | None = None, *, flow: str = "pipeline", until: str | None = None
) -> RunRecord:
    """Create the record of a run that this process begins, in the run's store; this machine remembers the store.

    The record has its first attempt, so that a process that is killed before its flow run begins leaves a crashed run,
    which can be continued to the same stage.
    """
    run_id, config = run_id or new_run_id(config.name), config.with_recorded_base()
    record = RunRecord(
        run_id=run_id, name=config.name, created_at=format_now(), config=config.as_dict(), release=RELEASE
    )
    record.begin(flow, until)
    store = open_store(config.store.uri)
    record.save(store)
    remember_store(run_id, store, home)
    return record


def remember_store(run_id: str, store: Store, home: Path) -> None:
    """Write a pointer file on this machine that names the store of a run, unless that is the home's own.

    Such a pointer in a copy of the home would name the store of the original.
    """
    if store.uri == str(home / "store"):
        return
    pointer = home / "runs" / run_id
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_bytes(os.fsencode(store.uri))


def list_pointers(folder: Path) -> list[str]:
    """Return the URIs of the stores that the pointer files in a folder name, in the order of the files' names."""
    pointers = sorted(folder.iterdir()) if folder.is_dir() else []
    return [uri for pointer in pointers if (uri := _read_pointer(pointer))]


def _read_pointer(pointer: Path) -> str:
    """Return the URI in a pointer file; "" if there is no file, or a power loss has emptied it."""
    return os.fsdecode(pointer.read_bytes()).strip() if pointer.is_file() else ""


def known_stores(home: Path, *first: str | None) -> list[Store]:
    """Return the stores of `first`, that of the home, and those in which this machine has runs, without duplicates."""
    return list({store.uri: store for store in map(open_store, _known_uris(home, *first))}.values())


def _known_uris(home: Path, *first: str | None) -> list[str]:
    return list(dict.fromkeys([*filter(None, first), str(home / "store"), *list_pointers(home / "runs")]))


def find_run(run_id: str, home: Path, store_uri: str | None = None) -> tuple[RunRecord, Store] | None:
    """Return the record of a run and its store, or None if neither `store_uri` nor a known store has it.

    Raises: ConfigError if the id or the record is not valid.
    """
    if not ANY_RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"{run_id!r} is not a run id: it may have letters, digits, `.`, `_` and `-`; `pairmill runs` lists all runs"
        )
    for store in known_stores(home, store_uri, _read_pointer(home / "runs" / run_id)):
        name = f"runs/{run_id}.json"
        if (data := store.find(name)) is not None:
            return parse_record(data, store, name), store
    return None


def load_run(run_id: str, home: Path, store_uri: str | None = None) -> tuple[RunRecord, Store]:
    """Return the record of a run and its store.

    Raises: ConfigError if no known store has it.
    """
    if (found := find_run(run_id, home, store_uri)) is not None:
        return found
    searched = ", ".join(store.uri for store in known_stores(home, store_uri))
    raise ConfigError(
        f"there is no run {run_id!r} in {searched}; list the runs with `pairmill runs`, change to its project's folder,"
        " or name another store with --store"
    )


def is_alive(record: RunRecord, store: Store, times: LeaseTimes = LEASE_TIMES) -> bool:
    """Return whether a run still works, by its process on this machine, or else by the lease on the snapshot that it makes.

    Waits up to `times.stale`, since a lease changes only while its holder is alive.
    """
    if record.actual_state() != "running":
        return False
    if record.attempts and record.own_attempts[-1].is_local():
        return True
    making = next((run for run in reversed(record.stages) if run.state == "Running"), None)
    first = find_holder(store, making.stage, making.key) if making else None
    if making is None or first is None or first.run_id != record.run_id:
        return False
    deadline = time.monotonic() + times.stale
    reason = f"checking whether {record.run_id} still runs on {first.host}, by its lease"
    with waiting(reason, deadline=time.time() + times.stale):
        while (now := find_holder(store, making.stage, making.key)) == first:
            if time.monotonic() > deadline:
                return False
            time.sleep(times.poll)
    return now is not None


def check_not_alive(record: RunRecord, store: Store) -> None:
    """Raise a ConfigError if a process works on a run, which then cannot be continued. Waits as `is_alive` does."""
    if is_alive(record, store):
        attempt = record.own_attempts[-1]
        raise ConfigError(
            f"{record.run_id} still runs on {attempt.host} as process {attempt.pid}; stop that process first"
        )


def read_record(store: Store, name: str) -> RunRecord:
    """Read and validate a run record. Raises: as parse_record."""
    return parse_record(store.read(name), store, name)


def parse_record(data: bytes, store: Store, name: str) -> RunRecord:
    """Validate a run record; a store may hold files that others wrote.

    Raises: ConfigError if it is not a valid record, or not that of the run in its name; NewerFormat, which is one.
    """
    try:
        record = RunRecord.parse(data, f"{store.uri}/{name}")
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{store.uri}/{name} is not a run record: {problems}") from error
    if name != f"runs/{record.run_id}.json":
        raise ConfigError(f"{store.uri}/{name} is not a run record of that run: its run_id is {record.run_id!r}")
    return record


def list_runs(home: Path, store_uri: str | None = None, patience: float = SILENT_SECONDS) -> list[RunRecord]:
    """Return the records of all runs in a store or in the known ones, oldest first; an invalid one is logged and left out.

    All stores are read at the same time. A store that fails, or returns nothing for `patience` seconds, is logged and
    left out, since the runs of the others can be listed all the same.

    Raises: the error of the store that `store_uri` names; StorageError if that store returns nothing.
    """
    readings = [_StoreReading(uri) for uri in ([store_uri] if store_uri else _known_uris(home))]
    found: dict[str, RunRecord] = {}
    for reading in readings:
        try:
            found |= reading.wait(patience)
        except PairmillError as error:
            if reading.uri == store_uri:
                raise
            logger.warning("the runs of %s are not listed: %s", reading.uri, error)
    return sorted(found.values(), key=lambda record: (record.created_at, record.run_id))


class _StoreReading:
    """Reads the run records of one store in a thread, which a store that does not respond cannot make others wait for."""

    def __init__(self, uri: str):
        self.uri = uri
        self._records: dict[str, RunRecord] = {}
        self._error: Exception | None = None
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._read, name=f"runs of {uri}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        newer = list[NewerFormat]()
        try:
            store = open_store(self.uri)
            with store.retrying_for(0):
                for name in store.names("runs"):
                    self._progress = time.monotonic()
                    try:
                        record = read_record(store, name)
                    except NewerFormat as error:
                        newer.append(error)
                    except ConfigError as error:
                        logger.warning("%s", error)
                    else:
                        self._records[record.run_id] = record
            if newer:
                logger.warning("%s not listed: %s", format_quantity(len(newer), "run is", "runs are"), newer[-1])
        except Exception as error:
            self._error = error

    def wait(self, patience: float) -> dict[str, RunRecord]:
        """Return the records by run id. Raises: the error of the store; StorageError if it returns nothing."""
        while self._thread.is_alive():
            self._thread.join(0.2)
            if time.monotonic() - self._progress > patience:
                raise StorageError(f"it has not responded for {patience:.0f} s")
        if self._error is not None:
            raise self._error
        return self._records


def no_runs(home: Path, store_uri: str | None = None) -> str:
    """Return the message for a store or a project without a run: most often, the user is in another folder than its own."""
    if store_uri:
        return f"there is no run in the store {store_uri}; `pairmill runs` lists those of the known stores"
    return f"there is no run in {home}; start one with `pairmill run CONFIG`, or change to your project's folder"


def newest_run(home: Path, store_uri: str | None = None) -> str:
    """Return the id of the run that started last in a store, or in the known ones. Raises: ConfigError if there is none."""
    if not (records := list_runs(home, store_uri)):
        raise ConfigError(no_runs(home, store_uri))
    return records[-1].run_id


def load_manifests(record: RunRecord, store: Store) -> list[Manifest]:
    """Return the manifests of the run's finished stages whose snapshots are still complete in the store."""
    found = (find_manifest(store, run.stage, run.key) for run in record.stages if run.state in FINISHED)
    return [manifest for manifest in found if manifest is not None]


def find_snapshot(key: str, home: Path, store_uri: str | None) -> tuple[Manifest, Store] | None:
    """Return the complete snapshot with this key and its store, or None; every stage of the known stores is searched."""
    if len(key) != 16 or not key.isalnum():
        return None
    for store in known_stores(home, store_uri):
        for stage in STAGES:
            if (manifest := find_manifest(store, stage, key)) is not None:
                return manifest, store
    return None


def find_named_version(name: str, home: Path, store_uri: str | None) -> tuple[Version, Store] | None:
    """Return the version of a dataset that grows with this name, `line/number`, and its store, or None."""
    if not re.fullmatch(r"[^/]+-[0-9a-f]{12}/[1-9]\d{0,8}", name):
        return None
    return next(
        ((find_version(store, name), store) for store in known_stores(home, store_uri) if has_version(store, name)),
        None,
    )


def find_version_of(name: str, home: Path, store_uri: str | None) -> tuple[Version, Store] | None:
    """Return the version of a dataset that grows with this name, or that a run has made, and its store, or None."""
    if "/" in name or not ANY_RUN_ID.fullmatch(name) or (run := find_run(name, home, store_uri)) is None:
        return find_named_version(name, home, store_uri)
    return None if run[0].version is None else (find_version(run[1], run[0].version), run[1])


def find_dataset(name: str, home: Path, store_uri: str | None) -> tuple[Manifest, Store]:
    """Return the snapshot with this key, or the packed dataset of a run, and its store."""
    if found := find_snapshot(name, home, store_uri):
        if found[0].stage not in PAIR_STAGES:
            raise ConfigError(
                f"{name} is a snapshot of {found[0].stage}, which has no pairs; name one of {', '.join(PAIR_STAGES)}"
            )
        return found
    record, store = load_run(name, home, store_uri)
    packed = [manifest for manifest in load_manifests(record, store) if manifest.stage == "pack"]
    if not packed:
        raise ConfigError(
            f"run {name} has no complete dataset (stage pack); name another run, or a snapshot by its key"
        )
    return packed[0], store
