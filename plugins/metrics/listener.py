"""Write the figures of a run while it goes, where `pairmill metrics` has made their folder."""

import time

from dataops.facts import DownloadFacts
from dataops.messages.waiting import current_waits
from dataops.stages import RunState
from flows.listeners.base import LiveRun, RunListener, StageEnd
from plugins.metrics import figures
from plugins.metrics.figures import Sample

EVERY_SECONDS = 5.0
"""Time between two figures of progress."""


class Metrics(RunListener):
    """Writes the figures of one flow run."""

    order = 50

    def __init__(self, run: LiveRun):
        super().__init__(run)
        self._next = 0.0

    def begin(self) -> None:
        self._add({}, {("run_active", ()): 1})

    def progress(self, done: float, total: int, line: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_SECONDS
            self._add({}, {("stage_progress_ratio", (self.run.stage,)): done / total if total else 0.0})

    def attempt_failed(self, error: BaseException) -> None:
        self._add({("failed_attempts", (self.run.stage, type(error).__name__)): 1}, {})

    def stage_ended(self, end: StageEnd) -> None:
        stage, manifest = end.stage, end.manifest
        counters: dict[Sample, float] = {
            ("stages", (stage, end.outcome)): 1,
            ("stage_seconds", (stage,)): end.seconds,
        }
        if manifest is not None and end.outcome == "Completed":
            counts = manifest.counts
            counters |= {
                ("rows", (stage,)): counts.kept,
                ("written_bytes", (stage,)): sum(part.bytes for part in manifest.parts),
                **{("dropped_rows", (stage, reason)): number for reason, number in counts.dropped.items()},
            }
            if stage == "download":
                counters[("fetched_bytes", ())] = DownloadFacts.of(manifest).bytes_fetched
                results = {"ok": counts.kept, **counts.dropped}
                counters |= {("image_requests", (result,)): number for result, number in results.items()}
        self._add(counters, {})

    def ended(self, state: RunState, error: str | None) -> None:
        done: dict[Sample, float] = {("run_success_timestamp_seconds", ()): time.time()} if state == "completed" else {}
        self._add({("runs", (state,)): 1}, {("run_active", ()): 0, **done})

    def _add(self, counters: dict[Sample, float], gauges: dict[Sample, float]) -> None:
        if not figures.folder().is_dir():
            return
        now = time.time()
        waits = [now - wait.since for wait in current_waits()]
        always: dict[Sample, float] = {
            ("waits", ()): len(waits),
            ("longest_wait_seconds", ()): max(waits, default=0.0),
            ("run_changed_timestamp_seconds", ()): now,
        }
        figures.add(self.run.record.name, counters, gauges | always)
