"""Prefect's process worker, restricted to the flows of this checkout.

It is `python -m plugins.deployment.process_worker --pool POOL`.

Prefect's own worker runs whatever command, code and environment a deployment, a flow run or a work pool names, so whoever
can write to the Prefect server runs programs on the worker's machine. This one runs `flows.pipeline` only. It takes the
options of `prefect worker start`.
"""

import os
import re
import sys
import warnings
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import dropwhile
from typing import Any
from uuid import UUID

import anyio
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.runner._flow_run_executor import FlowRunExecutorContext
from prefect.states import Cancelled
from prefect.utilities.processutils import command_to_string, get_sys_executable
from prefect.workers import process
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from tasks.engine.process_guard import GRACE_SECONDS

ALLOWED_ENV = frozenset(
    {
        "PREFECT_LOGGING_EXTRA_LOGGERS",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
    }
)
"""Variables that a job may set: those of infra/prefect.yaml. Others can change what Python or Prefect runs."""
KILL_SECONDS = GRACE_SECONDS + 15
"""Seconds from SIGTERM to SIGKILL of a flow run: for the checkpoint of a training, and the end of the run."""
_FLOW = re.compile(r"flows\.pipeline\.[a-z_]+")
_FLOW_IN_CHECKOUT = re.compile(r"flows/pipeline\.py:[a-z_]+")
_SET_FOLDER = "prefect.deployments.steps.set_working_directory"


class FlowJobConfiguration(ProcessJobConfiguration):
    """What a worker would run for a flow run: the values of the pool, the deployment and the flow run, merged."""

    def prepare_for_flow_run(self, flow_run: Any, deployment: Any = None, *args: Any, **options: Any) -> None:
        """Check the job, and set the command that runs it.

        Raises:
            ConfigError: it would run something else than a flow of this checkout. Prefect logs it, and sets the flow run
                to Crashed with this message.
        """
        if problems := [*self._job_problems(), *_deployment_problems(deployment)]:
            raise ConfigError(
                f"this worker runs flows of pairmill only, so it refuses this job: {'; '.join(problems)}. Deploy with"
                " `pairmill deploy`, and see SECURITY.md"
            )
        # With a command of its own Prefect does not put the folder of the deployment on the path of Python.
        self.command = command_to_string([get_sys_executable(), "-m", "plugins.deployment.flow_engine"])
        super().prepare_for_flow_run(flow_run, deployment, *args, **options)
        path = os.environ.get("PYTHONPATH")
        self.env |= {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), *([path] if path else [])]), "PYTHONSAFEPATH": "1"}

    def _job_problems(self) -> list[str]:
        problems = []
        if self.command is not None:
            problems.append(f"its job variables or its work pool set the command {_short(self.command)}")
        if self.working_dir is not None:
            problems.append(f"its job variables or its work pool set the folder {_short(self.working_dir)}")
        if names := sorted(self.env.keys() - ALLOWED_ENV):
            problems.append(
                f"its job variables or its work pool set the environment variables {_short(', '.join(names))}"
            )
        return problems


def _deployment_problems(deployment: Any) -> list[str]:
    """Return what is wrong with the code that a deployment names."""
    if deployment is None:
        return ["it belongs to no deployment"]
    steps, entrypoint = deployment.pull_steps or [], str(deployment.entrypoint)
    match steps:
        case [dict() as step] if list(step) == [_SET_FOLDER] and list(step[_SET_FOLDER]) == ["directory"]:
            folder = step[_SET_FOLDER]["directory"]
        case _:
            return [f"its pull steps are {_short(steps)}, not one {_SET_FOLDER}"]
    if _FLOW.fullmatch(entrypoint) or (_FLOW_IN_CHECKOUT.fullmatch(entrypoint) and folder == str(CHECKOUT)):
        return []
    return [f"its entrypoint is {_short(entrypoint)}, not a flow in flows.pipeline"]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return repr(text[:200])


async def _is_over(flow_run: Any, client: Any) -> bool:
    """Return whether the end of an attempt is recorded already, or a later attempt is.

    Prefect reports each killed process twice: when it ends, and again when its hooks have ended, seconds later. A retry
    that begins between the two would be ended by the second report, and run again. So would one whose earlier process is
    killed by one_process.

    Args:
        flow_run: the flow run as it was when its process was started.
    """
    states = sorted(await client.read_flow_run_states(flow_run.id), key=lambda state: state.timestamp)
    begun = flow_run.state.timestamp if flow_run.state else None
    since = [state for state in states if begun is None or state.timestamp > begun]
    attempt = list(dropwhile(lambda state: state.is_scheduled(), since))  # it may have been late
    return any(state.is_final() or state.is_scheduled() for state in attempt)


class PatientExecutorContext(FlowRunExecutorContext):
    """Runs flow runs, and gives one that is cancelled time for a checkpoint: Prefect's own kills it after 30 s."""

    async def __aenter__(self) -> "PatientExecutorContext":
        await super().__aenter__()
        manager, kill = self.process_manager, self.process_manager.kill
        propose = self._state_proposer.propose_crashed

        async def propose_crashed(flow_run: Any, message: str) -> Any:
            return None if await _is_over(flow_run, self.client) else await propose(flow_run, message)

        async def kill_late(flow_run_id: UUID, grace_seconds: float = 30, *, force: bool = False) -> None:
            handle = manager.get(flow_run_id)
            if force or handle is None or handle.pid is None:
                return await kill(flow_run_id, grace_seconds, force=force)
            with suppress(OSError):  # it has ended
                handle.graceful_kill()
                with anyio.move_on_after(KILL_SECONDS, shield=True):
                    while handle.is_alive():
                        await anyio.sleep(0.5)
                    return None
                handle.hard_kill()
            return None

        manager.kill, self._state_proposer.propose_crashed = kill_late, propose_crashed
        return self


process.FlowRunExecutorContext = PatientExecutorContext  # pyright: ignore[reportPrivateImportUsage]


async def _keep_newest(found: Sequence[Any], now: datetime, submitted: Collection[UUID], client: Any) -> list[Any]:
    """Cancel the late runs of a schedule that `--overlap skip` leaves out, and return the others.

    Args:
        submitted: the ids of runs that the worker begins already.
    """
    late = dict[UUID, list[Any]]()
    for run in (entry.flow_run for entry in found):
        if run.auto_scheduled and run.expected_start_time <= now:
            late.setdefault(run.deployment_id, []).append(run)
    skipped = set[UUID]()
    for deployment, runs in late.items():
        *older, newest = sorted(runs, key=lambda run: run.expected_start_time)
        options = (await client.read_deployment(deployment)).concurrency_options if older else None
        if options is not None and options.collision_strategy is ConcurrencyLimitStrategy.CANCEL_NEW:
            why = Cancelled(message=f"It was late, and so is a newer run of its deployment, {newest.name}.")
            for run in older:
                if run.id not in submitted:
                    await client.set_flow_run_state(run.id, why)
                    skipped.add(run.id)
    return [entry for entry in found if entry.flow_run.id not in skipped]


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*matches existing registered type")

    class FlowWorker(ProcessWorker):
        """The worker of pools of type `process`: Prefect looks workers up by type, and this class replaces its own."""

        job_configuration = FlowJobConfiguration

        async def run(self, flow_run: Any, *args: Any, **options: Any) -> Any:
            """Run a flow run. Where the worker is stopped, report the crash: nothing else does, and it is to run again."""
            try:
                return await super().run(flow_run, *args, **options)
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await self._propose_crashed_state(flow_run, "Its worker was stopped.")
                raise

        async def _get_scheduled_flow_runs(self) -> list[Any]:
            """Return the runs that are due. Of late ones of a deployment that skips, only the newest is left.

            Prefect's worker begins all at once, the server lets one of them run, and that may be any.
            """
            found, now = await super()._get_scheduled_flow_runs(), datetime.now(UTC)
            return await _keep_newest(found, now, self._submitting_flow_run_ids, self.client)

        async def _propose_crashed_state(self, flow_run: Any, message: str, client: Any = None) -> None:
            """Report a crash, unless that attempt is over already."""
            if not await _is_over(flow_run, client or self.client):
                await super()._propose_crashed_state(flow_run, message, client)


def main() -> None:
    """Start a worker as `prefect worker start` does."""
    from prefect.cli import app

    sys.argv[1:1] = ["worker", "start", "--type", ProcessWorker.type, "--install-policy", "never"]
    app()


if __name__ == "__main__":
    main()
