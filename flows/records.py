"""Run records: what `runs`, `show` and `rerun` read. They lie in the store, so the store alone is enough to go on.

A record is `runs/<run_id>.json`, rewritten as its run goes on; a small pointer under the home folder remembers in which
store a run of this machine lies. One record is carried through however many flow runs work on it: a first try and its
reruns, or the scheduled curation of a dataset, its training on a GPU machine and its evaluation.
"""

import logging
import os
import re
import secrets
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import Counts
from dataops.store import Store, open_store
from tasks.engine.lease import POLL_SECONDS, STALE_SECONDS, holder
from training.process import pid_namespace, process_fingerprint

if TYPE_CHECKING:  # it loads every stage, half a second that no reader of records needs
    from flows.config import RunConfig

logger = logging.getLogger(__name__)

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}-\d{8}T\d{6}-[0-9a-f]{4}")
"""Config's name, time in UTC, four random hex digits: the run's id, and the name of each flow run that works on it."""

ANY_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
"""What can be the name of a record."""

StageState = Literal["Running", "Completed", "Reused", "Failed"]
RunState = Literal["running", "completed", "failed", "crashed"]
FINISHED = ("Completed", "Reused")


class StageRun(BaseModel):
    """One stage of one run."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    key: str
    state: StageState
    seconds: float = 0.0
    counts: Counts = Counts()


class Attempt(BaseModel):
    """One try at a run: the first, a rerun, or the flow that takes it further."""

    model_config = ConfigDict(extra="forbid")

    started_at: str
    host: str
    pid: int
    place: str | None = None
    """The table of processes that `pid` belongs to (training.process.pid_namespace)."""
    process: str | None = None
    """What tells this process from another of the same pid (training.process.process_fingerprint)."""
    flow: str = "pipeline"
    until: str | None = None
    """The last stage that this try was to run; None for all."""
    flow_run_id: str | None = None
    ended_at: str | None = None
    error: str | None = None

    def is_here(self) -> bool:
        """Whether its process can be looked for from this one."""
        return self.host == socket.gethostname() if self.place is None else self.place == pid_namespace()

    def is_gone(self) -> bool:
        """Whether its process is known to have ended; of another machine's nothing is known."""
        return self.is_here() and (
            process_fingerprint(self.pid) is None or self.process not in (None, process_fingerprint(self.pid))
        )

    def is_sent_by(self, earlier: "Attempt") -> bool:
        """Whether this is a training on a work pool that an earlier try was waiting for when it began."""
        waited = earlier.ended_at is None or earlier.ended_at > self.started_at
        return self.flow == "train" and earlier.flow != "train" and waited


class RunRecord(BaseModel):
    """One run: its own config, its tries, and where each stage stands."""

    model_config = ConfigDict(extra="forbid")

    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=160)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=160)
    created_at: str
    config: dict[str, Any]
    state: RunState = "running"
    attempts: list[Attempt] = []
    stages: list[StageRun] = []
    model_version: str | None = None
    model_links: dict[str, str] = {}
    announced: list[str] = []
    """The snapshots, as `stage/key`, of which an event told the Prefect server."""

    @property
    def begun_by(self) -> str:
        """The flow of the first try: `curate` for a run that triggers carry on."""
        return self.attempts[0].flow if self.attempts else "pipeline"

    @property
    def tries(self) -> list[Attempt]:
        """The attempts without the trainings that one of them sent to a work pool, which go on without it."""
        return [a for i, a in enumerate(self.attempts) if not any(a.is_sent_by(b) for b in self.attempts[:i])]

    @property
    def goal(self) -> str | None:
        """The last stage that the unfinished try was to run; None for all of them, as after a finished try."""
        return self.tries[-1].until if self.attempts and self.state != "completed" else None

    def begin(self, flow: str = "pipeline", until: str | None = None, flow_run_id: str | None = None) -> None:
        """Start a try in this process."""
        self.state = "running"
        here = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "place": pid_namespace(),
            "process": process_fingerprint(os.getpid()),
        }
        self.attempts.append(Attempt(started_at=_now(), **here, flow=flow, until=until, flow_run_id=flow_run_id))

    def end(self, state: RunState, error: str | None = None) -> None:
        """End the present try."""
        self.state = state
        self.attempts[-1].ended_at, self.attempts[-1].error = _now(), error

    def note(self, run: StageRun) -> None:
        """Set where one stage stands, in the order in which stages were first reached."""
        for i, known in enumerate(self.stages):
            if known.stage == run.stage:
                self.stages[i] = run
                return
        self.stages.append(run)

    def key_of(self, stage: str) -> str | None:
        """The key of a stage that this run has finished."""
        return next((run.key for run in self.stages if run.stage == stage and run.state in FINISHED), None)

    def actual_state(self) -> RunState:
        """`crashed` where the record says running but its process on this machine is gone."""
        gone = self.state == "running" and self.attempts and self.tries[-1].is_gone()
        return "crashed" if gone else self.state

    def save(self, store: Store) -> None:
        """Write the record over its older self, keeping the tries that another process noted meanwhile."""
        name = f"runs/{self.run_id}.json"
        known: list[Attempt] = []
        if store.size(name) is not None:
            with suppress(ValidationError):  # emptied by a lost power supply
                known = RunRecord.model_validate_json(store.read(name)).attempts
        tries = {(a.started_at, a.host, a.pid, a.flow_run_id): a for a in [*known, *self.attempts]}
        merged = self.model_copy(update={"attempts": sorted(tries.values(), key=lambda a: a.started_at)})
        store.put(name, merged.model_dump_json(indent=2).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id(name: str, when: datetime | None = None) -> str:
    """An id that sorts by time and is unique."""
    return f"{name}-{(when or datetime.now(UTC)).astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def new_run(config: "RunConfig", home: Path, run_id: str | None = None) -> RunRecord:
    """A new record, saved in the run's store and known to this machine."""
    run_id = run_id or new_run_id(config.name)
    record = RunRecord(run_id=run_id, name=config.name, created_at=_now(), config=config.as_dict())
    store = open_store(config.store.uri)
    record.save(store)
    remember(run_id, store, home)
    return record


def remember(run_id: str, store: Store, home: Path) -> None:
    """Note on this machine in which store a run lies."""
    pointer = home / "runs" / run_id
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text(store.uri)


def stores(home: Path, extra: str | None = None) -> list[Store]:
    """The stores in which this machine has runs, and the one given; each once."""
    uris = [extra] if extra else []
    if (home / "runs").is_dir():
        named = [pointer.read_text().strip() for pointer in sorted((home / "runs").iterdir())]
        uris += [uri for uri in named if uri]  # a lost power supply may leave an empty one
    uris.append(str(home / "store"))
    return list({store.uri: store for store in map(open_store, uris)}.values())


def find_run(run_id: str, home: Path, store_uri: str | None = None) -> tuple[RunRecord, Store] | None:
    """The record of a run and the store that it lies in, where a known store or the one given has it.

    Raises: ConfigError when what is there is no record.
    """
    if not ANY_RUN_ID.fullmatch(run_id):
        raise ConfigError(f"{run_id!r} is no run id: letters, digits, `.`, `_` and `-`, as `pairmill runs` lists them")
    for store in stores(home, store_uri):
        name = f"runs/{run_id}.json"
        if store.size(name) is not None:
            return read_record(store, name), store
    return None


def load_run(run_id: str, home: Path, store_uri: str | None = None) -> tuple[RunRecord, Store]:
    """The record of a run and the store that it lies in.

    Raises: ConfigError when no known store has it.
    """
    if (found := find_run(run_id, home, store_uri)) is not None:
        return found
    searched = ", ".join(store.uri for store in stores(home, store_uri))
    raise ConfigError(f"no run {run_id!r} in {searched}; `pairmill runs` lists them, --store names another")


def is_alive(record: RunRecord, store: Store) -> bool:
    """Whether a run goes on: here by its process, elsewhere by the lease on the snapshot that it makes.

    May take as long as a lease needs to be stale: a machine that died can no longer say so.
    """
    if record.actual_state() != "running":
        return False
    if record.attempts and record.tries[-1].is_here():
        return True
    making = next((run for run in reversed(record.stages) if run.state == "Running"), None)
    first = holder(store, making.stage, making.key) if making else None
    if making is None or first is None or first.run_id != record.run_id:
        return False
    logger.info("%s: looking whether it still runs on %s (up to %d s)", record.run_id, first.host, STALE_SECONDS)
    deadline = time.monotonic() + STALE_SECONDS
    while (now := holder(store, making.stage, making.key)) == first:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return now is not None


def read_record(store: Store, name: str) -> RunRecord:
    """A run record, checked: a store may have been written by others.

    Raises: ConfigError when it is none, or says that it is another run's.
    """
    try:
        record = RunRecord.model_validate_json(store.read(name))
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{store.uri}/{name} is not a run record: {what}") from error
    if name != f"runs/{record.run_id}.json":
        raise ConfigError(f"{store.uri}/{name} is not a run record: it names the run {record.run_id!r}")
    return record


def list_runs(home: Path, store_uri: str | None = None) -> list[RunRecord]:
    """All runs of the known stores, oldest first."""
    found: dict[str, RunRecord] = {}
    for store in stores(home, store_uri):
        for name in store.names("runs"):
            try:
                record = read_record(store, name)
            except ConfigError as error:
                logger.warning("%s", error)
                continue
            found[record.run_id] = record
    return sorted(found.values(), key=lambda record: (record.created_at, record.run_id))
