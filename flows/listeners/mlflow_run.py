"""Show a run in MLflow: its run there begins with the first stage that is made, and ends when the flow run ends."""

import logging
from datetime import datetime

from dataops.stages import RunState
from flows.listeners.base import LiveRun, RunListener
from tasks.engine.stage import Plan
from tasks.tracking import parent_run
from tasks.tracking.parent_run import RunOutcome, Status

logger = logging.getLogger(__name__)


class MlflowRun(RunListener):
    """Writes the MLflow run, and the URL of its page into the record. A run that only reuses snapshots needs none."""

    order = 20

    def __init__(self, run: LiveRun):
        super().__init__(run)
        self._is_open = False

    def making(self, planned: Plan, *, elsewhere: bool) -> None:
        if self._is_open:
            return
        self._is_open = True
        if page := parent_run.open_run(self.run.context, self._began_ms()):
            logger.info("its MLflow run: %s", page)
            self.run.record.model_links = {**self.run.record.model_links, "run": page}
            self.run.save()

    def ended(self, state: RunState, error: str | None) -> None:
        run, report = self.run, self.run.record.checks
        status: Status = "FINISHED" if state == "completed" else "FAILED" if state == "failed" else "KILLED"
        reached = [one.model_dump() for one in run.record.stages if one.stage in {*run.manifests, run.stage}]
        tags, figures = dict[str, str](), dict[str, float]()
        if report is not None and report.results:
            tags, figures = {"checks": report.verdict}, {f"checks/{name}": one for name, one in report.figures.items()}
        if run.version is not None:
            tags["version"] = run.version.describe()
            figures |= {f"version/{name}": one for name, one in run.version.figures.items()}
        outcome = RunOutcome(
            status, error or f"up to {run.until or run.stage}", reached, self._began_ms(), tags, figures
        )
        page = parent_run.record_outcome(run.context, run.manifests, outcome)
        if page and not run.record.model_links:
            run.record.model_links = {"run": page}
            run.save()

    def _began_ms(self) -> int:
        """Return the Unix time at which the run began, in milliseconds."""
        return int(datetime.fromisoformat(self.run.record.attempts[0].started_at).timestamp() * 1000)
