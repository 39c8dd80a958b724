import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flow_engine import FlowRunEngine

from dataops.process import process_fingerprint
from flows.pipeline import pipeline
from plugins.deployment import one_process
from tests.concurrency import wait_for

LOCK = f"deployment-{UUID(int=3)}.lock"
HOLD = """
import subprocess, sys, time
from plugins.deployment.one_process import hold
with hold(sys.argv[1], sys.argv[2], lambda other: False):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    time.sleep(float(sys.argv[3]))
child.kill()
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def holding(home):
    """Start processes that hold a lock, each with a child; return the process and the pid of its child."""
    started = []

    def start(name, flow_run, seconds=600):
        command = [sys.executable, "-c", HOLD, name, flow_run, str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append((process, int(process.stdout.readline())))
        return started[-1]

    yield start
    for process, child in started:
        for pid in (process.pid, child):
            if process_fingerprint(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_process_that_prefect_gave_up_is_killed_with_its_workers_even_when_stopped(holding):
    process, child = holding("flow-run-1", "1")
    os.kill(process.pid, signal.SIGSTOP)
    with one_process.hold("flow-run-1", "1", lambda other: other == "1"):
        assert process.wait(10) == -signal.SIGKILL
        wait_for(lambda: process_fingerprint(child) is None, seconds=10)


def test_a_run_waits_for_one_that_prefect_has_not_given_up(holding, home, caplog):
    process, _ = holding("deployment-1", "first", seconds=2)
    asked = []
    with one_process.hold("deployment-1", "second", lambda other: asked.append(other)):
        assert process.wait(10) == 0
    assert set(asked) == {"first"}
    assert [f"process {process.pid}, which works on flow run first" in text for text in caplog.messages] == [True]
    assert list((home / "services" / "working").iterdir()) == []


def test_a_lock_that_its_holder_deleted_is_no_lock(home):
    """Three threads want it: the second opens the file that the first deletes, and the third creates another."""
    held, most = [], []

    def work():
        with one_process.hold("deployment-1", "1", lambda other: False):
            held.append(1)
            most.append(len(held))
            time.sleep(0.1)
            held.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


class Server:
    """What an engine asks of the Prefect server; `run` is the flow run as it is now. None: it does not answer."""

    def __init__(self, run=None, limit=None):
        self.run, self.limit = run, limit

    def read_flow_run(self, flow_run_id):
        if self.run is None:
            raise ConnectionError
        return self.run

    def read_deployment(self, deployment_id):
        if self.limit is None:
            raise ConnectionError
        return SimpleNamespace(global_concurrency_limit=self.limit and SimpleNamespace(limit=self.limit))


@pytest.fixture
def engine(home, monkeypatch):
    """Return an engine of Prefect that is guarded, and records what it would report."""
    work, crash = [], []
    monkeypatch.setattr(FlowRunEngine, "call_flow_fn", lambda engine: work.append(sorted(locks(home))))
    monkeypatch.setattr(FlowRunEngine, "handle_crash", lambda engine, error: crash.append(engine.short_circuit))
    one_process.guard_engine()

    def make(client):
        made = FlowRunEngine(flow=pipeline, flow_run=FlowRun(id=UUID(int=1), flow_id=UUID(int=2), run_count=1))
        made.flow_run.deployment_id, made._client, made._is_started = UUID(int=3), client, True
        return made

    return SimpleNamespace(make=make, work=work, crash=crash)


def locks(home):
    return [path.name for path in (home / "services").glob("working/*")]


@pytest.mark.parametrize(("limit", "held"), [(1, [LOCK]), (2, []), (0, []), (None, [LOCK])])
def test_only_flow_runs_of_a_deployment_with_a_limit_of_one_wait_for_each_other(engine, limit, held):
    engine.make(Server(limit=limit)).call_flow_fn()
    called = engine.make(Server(limit=limit))
    called.flow_run.deployment_id = None
    called.call_flow_fn()
    assert engine.work == [held, []]


@pytest.mark.parametrize(
    ("kind", "count", "is_silent"),
    [
        ("RUNNING", 1, False),
        ("CANCELLING", 1, False),
        ("RUNNING", 2, True),
        ("CRASHED", 1, True),
        ("SCHEDULED", 1, True),
        ("PENDING", 1, True),
        (None, 1, False),
    ],
)
def test_an_attempt_that_prefect_gave_up_reports_no_crash(engine, kind, count, is_silent):
    now = kind and FlowRun(
        id=UUID(int=1), flow_id=UUID(int=2), run_count=count, state=State(type=StateType(kind), name=kind)
    )
    engine.make(Server(now)).handle_crash(KeyboardInterrupt())
    assert engine.crash == [is_silent]
