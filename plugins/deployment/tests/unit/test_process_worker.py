import asyncio
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.client.schemas.objects import ConcurrencyOptions, FlowRun, State, StateType
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.workers.process import ProcessWorker

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from flows.pipeline import FLOWS
from plugins.deployment.process_worker import FlowJobConfiguration, FlowWorker

FOLDER = "prefect.deployments.steps.set_working_directory"
PULL = [{FOLDER: {"directory": "/somewhere"}}]
OURS = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PREFECT_LOGGING_EXTRA_LOGGERS": "flows"}
RUN = FlowRun(id=UUID(int=1), flow_id=UUID(int=2), name="run")


def deployment(entrypoint="flows.pipeline.train", pull=PULL):
    return SimpleNamespace(id=UUID(int=3), name="gpu", entrypoint=entrypoint, pull_steps=pull, updated=None)


def prepare(values, of, template=None):
    """Merge job variables into a pool's template, and prepare the job, as Prefect's worker does."""
    base = ProcessWorker.get_default_base_job_template()
    base["job_configuration"] |= template or {}

    async def merge():
        offline = SimpleNamespace()  # it is asked only for blocks and variables, and there are none
        return await FlowJobConfiguration.from_template_and_values(base, values, client=offline)

    job = asyncio.run(merge())
    job.prepare_for_flow_run(RUN, of, None, None, "worker")
    return job


@pytest.mark.parametrize("flow", [flow.name for flow in FLOWS])
def test_flows_of_this_checkout_run_in_this_installation(flow):
    job = prepare({"env": OURS}, deployment(f"flows.pipeline.{flow}"))
    assert job.command.split() == [sys.executable, "-m", "plugins.deployment.flow_engine"]
    assert str(job.env["PYTHONPATH"]).split(":")[0] == str(CHECKOUT)
    assert job.env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    in_checkout = [{FOLDER: {"directory": str(CHECKOUT)}}]
    prepare({"stream_output": False}, deployment(f"flows/pipeline.py:{flow}", in_checkout))


@pytest.mark.parametrize(
    ("values", "template", "reason"),
    [
        ({"command": "touch /tmp/x"}, {}, "the command 'touch /tmp/x'"),
        ({}, {"command": "touch /tmp/x"}, "the command"),
        ({"env": {"LD_PRELOAD": "/tmp/x.so"}}, {}, "environment variables 'LD_PRELOAD'"),
        ({"env": OURS | {"PATH": "/tmp"}}, {}, "'PATH'"),
        ({"env": {"PREFECT_API_URL": "http://evil.example"}}, {}, "'PREFECT_API_URL'"),
        ({}, {"env": {"PYTHONSTARTUP": "/tmp/x"}}, "'PYTHONSTARTUP'"),
        ({"working_dir": "/tmp"}, {}, "the folder '/tmp'"),
    ],
)
def test_jobs_that_change_what_runs_are_refused(values, template, reason):
    with pytest.raises(ConfigError, match="refuses this job") as caught:
        prepare(values, deployment(), template)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "of",
    [
        None,
        deployment("os.system"),
        deployment("flows/pipeline.py:train"),
        deployment("/tmp/evil.py:train"),
        deployment("flows.pipeline.train\n"),
        deployment(pull=[]),
        deployment(pull=[*PULL, *PULL]),
        deployment(pull=[{"prefect.deployments.steps.run_shell_script": {"script": "id"}}]),
        deployment(pull=[{FOLDER: {"directory": "/x", "requires": "evil"}}]),
        deployment(pull=[{FOLDER: {"directory": "/x"}, "os.system": {"command": "id"}}]),
        deployment(pull=["id"]),
    ],
)
def test_deployments_of_other_code_are_refused(of):
    with pytest.raises(ConfigError, match="refuses this job"):
        prepare({}, of)


class Server:
    """What a worker asks of the Prefect server about one flow run."""

    def __init__(self, *names):
        self.states = [state(name, second) for second, name in enumerate(names)]

    async def read_flow_run_states(self, flow_run_id):
        return self.states

    async def set_flow_run_state(self, flow_run_id, new, **_):
        self.states.append(new)
        return OrchestrationResult(state=new, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())


def state(name, second):
    kind = {"AwaitingRetry": "SCHEDULED", "Late": "SCHEDULED"}.get(name, name.upper())
    return State(type=StateType(kind), name=name, timestamp=datetime(2026, 11, 29, 12, 0, second, tzinfo=UTC))


@pytest.mark.parametrize(
    ("since", "reported"),
    [
        (["Scheduled", "Pending", "Running"], True),
        (["Scheduled", "Late", "Pending", "Running"], True),
        (["Scheduled", "Pending", "Running", "AwaitingRetry"], False),
        (["Scheduled", "Pending", "Running", "AwaitingRetry", "Pending", "Running"], False),
        (["Scheduled", "Pending", "Running", "Crashed"], False),
        (["Scheduled", "Pending", "Running", "Crashed", "AwaitingRetry", "Pending", "Running"], False),
        (["Scheduled", "Pending", "Running", "Cancelled"], False),
    ],
)
@pytest.mark.parametrize("earlier", [[], ["Scheduled", "Pending", "Running", "Crashed"]])
def test_a_killed_process_is_reported_once_and_no_retry_is_ended(earlier, since, reported):
    """Prefect's worker reports it again when its hooks have ended, as of the retry that runs by then."""
    server = Server(*earlier, *since)
    begun = FlowRun(id=UUID(int=1), flow_id=UUID(int=2), name="run", state=server.states[len(earlier)])
    before = len(server.states)
    worker = FlowWorker(work_pool_name="pool")
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):  # no server gets its log
        asyncio.run(worker._propose_crashed_state(begun, "it was killed", client=server))
    assert [one.name for one in server.states[before:]] == (["Crashed"] if reported else [])


@pytest.mark.parametrize(("strategy", "left"), [("CANCEL_NEW", [2, 3, 4]), ("ENQUEUE", [0, 1, 2, 3, 4])])
def test_only_the_newest_of_late_runs_begins_where_runs_are_skipped(monkeypatch, strategy, left):
    """Run 3 is not due yet, and 4 was asked for by hand."""
    now, cancelled = datetime.now(UTC), []

    class Client:
        async def read_deployment(self, deployment_id):
            return SimpleNamespace(concurrency_options=ConcurrencyOptions(collision_strategy=strategy))

        async def set_flow_run_state(self, flow_run_id, new):
            cancelled.append((flow_run_id.int, new.name))

    async def find_due(self):
        return [SimpleNamespace(flow_run=run) for run in runs]

    runs = [
        FlowRun(
            id=UUID(int=n),
            flow_id=UUID(int=9),
            deployment_id=UUID(int=8),
            name=str(n),
            auto_scheduled=n != 4,
            expected_start_time=now + timedelta(hours=min(n, 3) - 2.5),
        )
        for n in range(5)
    ]
    monkeypatch.setattr(ProcessWorker, "_get_scheduled_flow_runs", find_due)
    worker = FlowWorker(work_pool_name="pool")
    worker._client = Client()
    found = asyncio.run(worker._get_scheduled_flow_runs())
    assert [one.flow_run.id.int for one in found] == left
    assert cancelled == [(n, "Cancelled") for n in range(5) if n not in left]
