"""Run records: what `runs`, `show` and `rerun` read. They lie in the store, so the store alone is enough to go on.

A record is `runs/<run_id>.json`, rewritten as its run goes on; a small pointer under the home folder remembers in which
store a run of this machine lies.
"""

import os
import re
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import Counts
from dataops.store import Store, open_store
from flows.config import RunConfig

StageState = Literal["Running", "Completed", "Reused", "Failed"]
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
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
    flow_run_id: str | None = None
    ended_at: str | None = None
    error: str | None = None


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

    def begin(self) -> None:
        """Start a try in this process."""
        self.state = "running"
        self.attempts.append(Attempt(started_at=_now(), host=socket.gethostname(), pid=os.getpid()))

    def end(self, state: RunState, error: str | None = None) -> None:
        """End the present try."""
        self.state = state
        self.attempts[-1].ended_at, self.attempts[-1].error = _now(), error

    def note(self, run: StageRun) -> None:
        """Set where one stage stands, in the order in which stages were first reached."""
        for place, known in enumerate(self.stages):
            if known.stage == run.stage:
                self.stages[place] = run
                return
        self.stages.append(run)

    def actual_state(self) -> RunState:
        """`crashed` where the record says running but its process on this machine is gone."""
        if self.state != "running" or not self.attempts or self.attempts[-1].host != socket.gethostname():
            return self.state
        return "running" if Path(f"/proc/{self.attempts[-1].pid}").exists() else "crashed"

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
        uris += [pointer.read_text().strip() for pointer in sorted((home / "runs").iterdir())]
    uris.append(str(home / "store"))
    return list({store.uri: store for store in map(open_store, uris)}.values())


def load_run(run_id: str, home: Path, store_uri: str | None = None) -> tuple[RunRecord, Store]:
    """The record of a run and the store that it lies in.

    Raises: ConfigError when no known store has it.
    """
    if not RUN_ID.fullmatch(run_id):
        msg = f"{run_id!r} is no run id: letters, digits, `.`, `_` and `-`, as `pairmill runs` lists them"
        raise ConfigError(msg)
    searched = stores(home, store_uri)
    for store in searched:
        name = f"runs/{run_id}.json"
        if store.size(name) is not None:
            return read_record(store, name), store
    msg = (
        f"no run {run_id!r} in {', '.join(s.uri for s in searched)}; `pairmill runs` lists them, --store names another"
    )
    raise ConfigError(msg)


def read_record(store: Store, name: str) -> RunRecord:
    """A run record, checked: a store may have been written by others.

    Raises: ConfigError when it is none, or says that it is another run's.
    """
    try:
        record = RunRecord.model_validate_json(store.read(name))
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())
        msg = f"{store.uri}/{name} is not a run record: {what}"
        raise ConfigError(msg) from error
    if name != f"runs/{record.run_id}.json":
        msg = f"{store.uri}/{name} is not a run record: it names the run {record.run_id!r}"
        raise ConfigError(msg)
    return record


def list_runs(home: Path, store_uri: str | None = None) -> list[RunRecord]:
    """All runs of the known stores, oldest first."""
    found: dict[str, RunRecord] = {}
    for store in stores(home, store_uri):
        for name in store.names("runs"):
            record = read_record(store, name)
            found[record.run_id] = record
    return sorted(found.values(), key=lambda record: (record.created_at, record.run_id))
