"""Run records: what `runs`, `show` and `rerun` read. They lie in the store, so the store alone is enough to go on.

A record is `runs/<run_id>.json`, rewritten as its run goes on; a small pointer under the home folder remembers in which
store a run of this machine lies.
"""

import logging
import os
import secrets
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import Counts
from dataops.store import Store, open_store
from flows.config import RunConfig
from tasks.lease import POLL_SECONDS, STALE_SECONDS, holder
from training.process import identity, place

logger = logging.getLogger(__name__)

StageState = Literal["Running", "Completed", "Reused", "Failed"]
RunState = Literal["running", "completed", "failed", "crashed"]


class StageRun(BaseModel):
    """One stage of one run."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    key: str
    state: StageState
    seconds: float = 0.0
    counts: Counts = Counts()


class Attempt(BaseModel):
    """One try at a run: the first, or a rerun."""

    model_config = ConfigDict(extra="forbid")

    started_at: str
    host: str
    pid: int
    place: str | None = None
    """The table of processes that `pid` belongs to (training.process.place)."""
    process: str | None = None
    """What tells this process from another of the same pid (training.process.identity)."""
    flow_run_id: str | None = None
    ended_at: str | None = None
    error: str | None = None

    def is_here(self) -> bool:
        """Whether its process can be looked for from this one."""
        return self.host == socket.gethostname() if self.place is None else self.place == place()

    def is_gone(self) -> bool:
        """Whether its process is known to have ended; of another machine's nothing is known."""
        return self.is_here() and (identity(self.pid) is None or self.process not in (None, identity(self.pid)))


class RunRecord(BaseModel):
    """One run: its own config, its tries, and where each stage stands."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    name: str
    created_at: str
    config: dict[str, Any]
    until: str | None = None
    """The last stage that was asked for; a rerun stops there too."""
    state: RunState = "running"
    attempts: list[Attempt] = []
    stages: list[StageRun] = []
    model_version: str | None = None
    model_links: dict[str, str] = {}

    def begin(self) -> None:
        """Start a try in this process."""
        self.state = "running"
        host, pid = socket.gethostname(), os.getpid()
        self.attempts.append(Attempt(started_at=_now(), host=host, pid=pid, place=place(), process=identity(pid)))

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

    def actual_state(self) -> RunState:
        """`crashed` where the record says running but its process on this machine is gone."""
        gone = self.state == "running" and self.attempts and self.attempts[-1].is_gone()
        return "crashed" if gone else self.state

    def save(self, store: Store) -> None:
        """Write the record over its older self."""
        store.put(f"runs/{self.run_id}.json", self.model_dump_json(indent=2).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run(config: RunConfig, home: Path) -> RunRecord:
    """A new record, saved in the run's store and known to this machine."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    run_id = f"{config.name}-{stamp}-{secrets.token_hex(2)}"
    record = RunRecord(run_id=run_id, name=config.name, created_at=_now(), config=config.as_dict())
    store = open_store(config.store.uri)
    record.save(store)
    pointer = home / "runs" / run_id
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.write_text(store.uri)
    return record


def stores(home: Path, extra: str | None = None) -> list[Store]:
    """The stores in which this machine has runs, and the one given; each once."""
    uris = [extra] if extra else []
    if (home / "runs").is_dir():
        named = [pointer.read_text().strip() for pointer in sorted((home / "runs").iterdir())]
        uris += [uri for uri in named if uri]  # a lost power supply may leave an empty one
    uris.append(str(home / "store"))
    return list({store.uri: store for store in map(open_store, uris)}.values())


def load_run(run_id: str, home: Path, store_uri: str | None = None) -> tuple[RunRecord, Store]:
    """The record of a run and the store that it lies in.

    Raises: ConfigError when no known store has it.
    """
    searched = stores(home, store_uri)
    for store in searched:
        name = f"runs/{run_id}.json"
        try:
            if store.size(name) is not None:
                return RunRecord.model_validate_json(store.read(name)), store
        except ValidationError as error:
            msg = f"{store.uri}/{name} is not a run record: {error}"
            raise ConfigError(msg) from error
    msg = (
        f"no run {run_id!r} in {', '.join(s.uri for s in searched)}; `pairmill runs` lists them, --store names another"
    )
    raise ConfigError(msg)


def is_alive(record: RunRecord, store: Store) -> bool:
    """Whether a run goes on: here by its process, elsewhere by the lease on the snapshot that it makes.

    May take as long as a lease needs to be stale: a machine that died can no longer say so.
    """
    if record.actual_state() != "running":
        return False
    if record.attempts and record.attempts[-1].is_here():
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


def list_runs(home: Path, store_uri: str | None = None) -> list[RunRecord]:
    """All runs of the known stores, oldest first."""
    found: dict[str, RunRecord] = {}
    for store in stores(home, store_uri):
        for name in store.names("runs"):
            try:
                record = RunRecord.model_validate_json(store.read(name))
            except ValidationError as error:
                logger.warning("%s/%s is no run record (%d problems)", store.uri, name, error.error_count())
                continue
            found[record.run_id] = record
    return sorted(found.values(), key=lambda record: (record.created_at, record.run_id))
