"""The seam between a run and what shows it: `RunListener`, registered under `pairmill.listeners`.

An entry point names a class, which is called with the run when the run is opened. The core's own are registered in the same
way: the terminal and MLflow's run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from dataops import plugins
from dataops.redaction import redact
from dataops.snapshot import Manifest
from dataops.stages import RunState
from flows.config import RunConfig
from flows.records import RunRecord, StageState
from tasks.engine.context import Context
from tasks.engine.stage import Plan
from tasks.growth.versions import Version

logger = logging.getLogger(__name__)
TAKEDOWN_DUE = "pairmill.takedown.due"
"""Event of Prefect: an open takedown request is near or past its deadline."""
for _package in ("flows", "infra", "plugins", "tasks"):  # Prefect adds its handlers and leaves these at WARNING
    logging.getLogger(_package).setLevel(logging.INFO)


@dataclass
class LiveRun:
    """A run that works now, as its listeners see it."""

    record: RunRecord
    """A listener that changes it, such as its links, calls `save`."""
    config: RunConfig
    context: Context
    until: str | None
    """The last stage that this flow run should run; None for all."""
    is_scheduled: bool = False
    """Whether a deployment began the run, not a command."""
    manifests: dict[str, Manifest] = field(default_factory=dict)
    """Snapshots that it has so far, by stage."""
    stage: str = ""
    """Name of the stage that is being made, or was made last."""
    version: Version | None = None
    """The version that it added to a dataset that grows."""

    def save(self) -> None:
        """Write the record into the store."""
        self.record.save(self.context.store)


@dataclass(frozen=True)
class StageEnd:
    """How a stage ended, after all its attempts."""

    stage: str
    outcome: StageState
    """Completed, Reused or Failed."""
    seconds: float
    manifest: Manifest | None
    """None if it failed."""


class RunListener:
    """Base of what shows a run. Each method does nothing; a class overrides those that it needs.

    An exception of a listener is logged, and the run continues.
    """

    order = 100
    """Listeners are called in this order: those that write into the record before those that show it."""

    def __init__(self, run: LiveRun):
        self.run = run

    def begin(self) -> None:
        """The record is saved; no stage has begun."""

    def stage_started(self, planned: Plan) -> None:
        """A stage begins. Its snapshot may be complete."""

    def making(self, planned: Plan, *, elsewhere: bool) -> None:
        """An attempt to make the snapshot begins; `elsewhere`: in a flow run of its own, with its own listeners."""

    def progress(self, done: float, total: int, line: str) -> None:
        """The stage has done `done` of `total`; the line is about what it does or reached."""

    def attempt_failed(self, error: BaseException) -> None:
        """An attempt to make the snapshot failed. Another may follow."""

    def stage_ended(self, end: StageEnd) -> None:
        """A stage ended; its snapshot is among `run.manifests` unless it failed."""

    def ended(self, state: RunState, error: str | None) -> None:
        """The run ended, and its record is closed."""


class Listeners:
    """All registered listeners of one run."""

    def __init__(self, run: LiveRun):
        self._reported: set[tuple[str, str]] = set()
        self._listeners: list[RunListener] = []
        for name, build in plugins.load("listeners").items():
            self._guard(name, lambda build=build: self._listeners.append(build(run)))

    def notify(self, call: Callable[[RunListener], None]) -> None:
        """Call a method of each listener; log what one raises, once."""
        for listener in self._listeners:
            self._guard(type(listener).__name__, lambda listener=listener: call(listener))

    def _guard(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # what shows a run must not fail it
            message = redact(f"{type(error).__name__}: {error}")
            if (name, message) not in self._reported:
                self._reported.add((name, message))
                logger.warning("%s does not show the run: %s", name, message)
