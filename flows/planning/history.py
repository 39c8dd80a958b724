"""Find the earlier runs of a stage in the store: their snapshots, and how long they took."""

from collections.abc import Sequence
from dataclasses import dataclass

from dataops.errors import ConfigError, PairmillError
from dataops.process import count_cores
from dataops.snapshot import Manifest, load_manifest
from dataops.store import Store
from flows.records import FINISHED, RunRecord, read_record

MAX_RUNS = 30
"""Number of the newest runs that are read."""


@dataclass(frozen=True)
class Earlier:
    """A snapshot that an earlier run made or reused."""

    manifest: Manifest
    run_id: str
    is_same_name: bool
    seconds: float | None
    """Seconds that the run took to make it; None if no run is known that made it in one attempt."""
    workers: int
    cpu_seconds: float | None = None
    """CPU time of that, if it is known."""
    host: str = ""
    """Host name of the machine that made it."""
    is_remote: bool = False
    """Whether the store is in S3."""

    @property
    def rows(self) -> int:
        """Its input rows."""
        return self.manifest.counts.input


class History:
    """The earlier runs of a store, newest first, those of one name before all others."""

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name
        names = sorted(store.names("runs"), key=_time_of, reverse=True)
        own = [one for one in names if one.startswith(f"runs/{name}-")]
        self.records: list[RunRecord] = []
        for one in [*own, *(one for one in names if one not in own)][:MAX_RUNS]:
            try:
                self.records.append(read_record(store, one))
            except ConfigError:  # `pairmill runs` reports it
                continue

    def of_stage(self, stage: str) -> list[Earlier]:
        """Return the snapshots of a stage that are still there, those of the same name first, newest first."""
        found: dict[str, Earlier] = {}
        for record in sorted(self.records, key=lambda record: record.name != self.name):
            for run in record.stages:
                if run.stage != stage or run.state not in FINISHED:
                    continue
                known = found.get(run.key)
                if known is not None and (known.seconds is not None or run.state != "Completed"):
                    continue
                manifest = known.manifest if known else self._load(stage, run.key)
                if manifest is not None:
                    seconds = run.seconds if run.state == "Completed" and len(record.attempts) == 1 else None
                    workers = record.config.get("execution", {}).get("workers") or count_cores()
                    found[run.key] = Earlier(
                        manifest,
                        record.run_id,
                        record.name == self.name,
                        seconds,
                        workers,
                        cpu_seconds=None if seconds is None else run.cpu_seconds,
                        host=record.attempts[-1].host if record.attempts else "",
                        is_remote=self.store.is_remote,
                    )
        return list(found.values())

    def _load(self, stage: str, key: str) -> Manifest | None:
        try:
            return load_manifest(self.store, stage, key)
        except PairmillError:
            return None


def _time_of(name: str) -> str:
    return name.rpartition("-")[0].rpartition("-")[2]


def choose_timed(found: Sequence[Earlier]) -> list[Earlier]:
    """Return the snapshots whose time is known and that had rows, in the same order."""
    return [one for one in found if one.seconds is not None and one.rows]
