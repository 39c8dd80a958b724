"""Training on a work pool: one child per key, which the parent waits for and cancels. Only Prefect's client is faked."""

from contextlib import contextmanager
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Crashed, Failed, Running

from dataops.errors import ConfigError, JobFailed, ServiceError, TrainingDiverged
from dataops.store import FolderStore
from flows import launch as module
from flows.launch import train_on_pool
from tasks.engine.context import Context
from training.config import TrainConfig

KEY = "0123456789abcdef"


class Client:
    """A fake of Prefect's client with flow runs in memory; each read of a flow run returns the next of `answers`."""

    def __init__(self, answers):
        self.answers, self.runs, self.cancelled = answers, [], []
        self.deployed = True
        self.variables = {}
        self.job_variables = None

    def read_flow_runs(self, *, flow_run_filter, sort):
        (tag,) = flow_run_filter.tags.all_
        return [run for run in self.runs if tag in run.tags][::-1]

    def read_deployment_by_name(self, name):
        assert name == "train/gpu"
        if not self.deployed:
            raise ObjectNotFound(None)
        return SimpleNamespace(id=uuid4(), tags=["gpu"], work_pool_name="p", job_variables=self.job_variables)

    def read_work_pool(self, name):
        assert name == "p"
        return SimpleNamespace(base_job_template={"variables": {"properties": self.variables}})

    def create_flow_run_from_deployment(self, deployment_id, *, parameters, tags):
        run = SimpleNamespace(id=uuid4(), name="r", tags=tags, parameters=parameters, state=None)
        self.runs.append(run)
        return run

    def read_flow_run(self, identity):
        (run,) = [run for run in self.runs if run.id == identity]
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        run.state = answer
        return run

    def set_flow_run_state(self, identity, state):
        assert state.is_cancelling()
        self.cancelled.append(identity)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs train_on_pool with a client; the snapshot exists once all answers are used."""
    manifest = object()

    def call(client, patience=120):
        @contextmanager
        def connect(*, sync_client):
            yield client

        monkeypatch.setattr(module, "get_client", connect)
        monkeypatch.setattr(module, "find_manifest", lambda store, stage, key: manifest if not client.answers else None)
        planned = SimpleNamespace(key=KEY, stage=SimpleNamespace(name="train"), config=TrainConfig(nproc=4))
        context = Context(store=FolderStore(tmp_path), home=tmp_path, run_id="run-1")
        return train_on_pool(planned, context, poll=0.001, patience=patience) is manifest

    return call


def test_train_on_pool_starts_a_child_with_the_run_and_waits(run, tmp_path):
    client = Client([Running(), httpx.ConnectError("restarting"), Running(), Completed()])
    assert run(client)
    (child,) = client.runs
    assert child.parameters == {"run_id": "run-1", "store": FolderStore(tmp_path).uri}
    assert set(child.tags) == {"gpu", f"train:{KEY}"}


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (Crashed(message="killed"), JobFailed),
        (Cancelled(), JobFailed),
        (Failed(message="train failed: TrainingDiverged. Change [train].\nstep 7"), TrainingDiverged),
        (Failed(message="train failed: ConfigError. Correct the config.\nno GPU"), ConfigError),
    ],
)
def test_error_of_the_child_is_raised_and_the_next_attempt_starts_another(run, state, error):
    client = Client([state])
    with pytest.raises(error) as caught:
        run(client)
    assert getattr(caught.value, "retryable", False) == state.is_crashed()
    client.answers = [Completed()]
    assert run(client)
    assert len(client.runs) == 2


def test_errors_name_a_missing_deployment_and_a_silent_server(run):
    client = Client([])
    client.deployed = False
    with pytest.raises(ConfigError, match="pairmill deploy"):
        run(client)
    silent = Client([httpx.ConnectError("gone")] * 3)
    with pytest.raises(ServiceError, match="may still run"):
        run(silent, patience=0)
    assert not silent.cancelled
