"""Record where the logs of a run's jobs are, for `pairmill show`."""

from dataops.stages import RunState
from flows.listeners.base import RunListener
from plugins.slurm.scheduler import log_folder


class JobLogs(RunListener):
    """Adds the files of the logs to the links of a run on SLURM."""

    order = 110
    """After MLflow, which adds links too."""

    def begin(self) -> None:
        config = self.run.config
        if "slurm" in (config.execution.engine, config.train.launch):
            links = {"SLURM logs": f"{log_folder()}/pairmill-STAGE-KEY-*.log"}
            self.run.record.model_links = {**self.run.record.model_links, **links}
            self.run.save()

    def ended(self, state: RunState, error: str | None) -> None:
        self.begin()  # the registered model has replaced the links
