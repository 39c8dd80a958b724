"""The real Prefect and MLflow servers in a separate home, on free ports. The tests run in order on the same servers.

Their databases are of the last minor versions but one, which the servers of today open.
"""

import json
import lzma
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from dataops.errors import ServiceError
from dataops.home import CHECKOUT
from infra.local import services, supervisor
from infra.local import supervisor as processes
from tests.concurrency import wait_for

pytestmark = pytest.mark.timeout(600)
STORED = Path(__file__).parents[1] / "data" / "stored"
OLD = {"mlflow": "3.15.2", "prefect": "3.7.8"}
"""With an experiment, a run, and a version with an alias; with a flow."""

# Free ports, because two homes that start at the same time would both try the default ones.
UP = """
from dataclasses import replace
from infra.local import services
services.PREFECT, services.MLFLOW = replace(services.PREFECT, port=None), replace(services.MLFLOW, port=None)
print([status.pid for status in services.up()])
"""

KEEP = """
from dataclasses import replace
from infra.local import services
services.PREFECT, services.MLFLOW = replace(services.PREFECT, port=None), replace(services.MLFLOW, port=None)
services.keep_running(services.up, interval=0.5)
"""


@pytest.fixture(scope="module")
def keeper(home):
    """Keep the servers running, as `pairmill up --restart` does."""
    with subprocess.Popen([sys.executable, "-c", KEEP], cwd=CHECKOUT, env=clean_environment()) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "odd name %20#?"
    with pytest.MonkeyPatch.context() as patch:
        for name in (*services.client_environment(), *services.CLIENT_VARIABLE.values()):
            patch.delenv(name, raising=False)
        patch.setenv("PAIRMILL_HOME", str(folder))
        for name, release in OLD.items():
            place = folder / "services" / name
            place.mkdir(parents=True)
            (place / f"{name}.db").write_bytes(lzma.decompress((STORED / f"{name}-{release}.db.xz").read_bytes()))
            (place / f"{name}.version").write_text(release)
        for server in ("PREFECT", "MLFLOW"):
            patch.setattr(services, server, replace(getattr(services, server), port=None))
        # Variables that a user's shell may have and that servers must not get.
        patch.setenv("MLFLOW_STATIC_PREFIX", "/elsewhere")
        patch.setenv("PREFECT_SERVER_API_PORT", "1")
        patch.setenv("PYTHONWARNINGS", "error")
        yield folder
        services.down()


def clean_environment():
    return {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def processes_of(home):
    return [
        pid
        for name in services.CLIENT_VARIABLE
        for pid in processes.find_marked(str(home.resolve() / "services" / name))
    ]


def test_two_concurrent_ups_start_each_server_once(home):
    command = [sys.executable, "-c", UP]
    started = time.monotonic()
    both = [
        subprocess.Popen(command, cwd=CHECKOUT, env=clean_environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate()[0] for process in both]
    print(f"up from cold: {time.monotonic() - started:.1f} s")  # noqa: T201 (shown with -s)
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    assert None not in json.loads(answers[0].replace("None", "null"))


def test_servers_outlive_the_starting_process_and_serve_api_and_ui(home):
    prefect, mlflow = services.status()
    assert (prefect.state, mlflow.state) == ("running", "running")
    assert get(f"{prefect.url}/health") == "true"
    assert json.loads(get(f"{prefect.ui_url}/ui-settings"))["api_url"] == "/api"
    assert "<html" in get(prefect.ui_url)
    assert get(f"{mlflow.url}/health") == "OK"
    assert "<html" in get(mlflow.ui_url)
    assert json.loads(get(f"{mlflow.url}/ajax-api/3.0/mlflow/ui-telemetry"))["disable_ui_telemetry"] is True
    assert all(os.getsid(status.pid or 0) == status.pid for status in (prefect, mlflow))


def ask(name, path, body):
    base = next(service.url for service in services.status() if service.name == name)
    answer = httpx.post(f"{base}{path}", json=body, headers=services.authorization(f"{base}{path}"), timeout=60)
    return answer.raise_for_status().json()


def test_old_databases_are_migrated_with_a_copy(home):
    assert [flow["name"] for flow in ask("prefect", "/flows/filter", {})] == ["curate"]
    runs = ask("mlflow", "/api/2.0/mlflow/runs/search", {"experiment_ids": ["1"]})
    assert runs["runs"][0]["data"]["metrics"][0]["value"] == 0.25
    for name, release in OLD.items():
        place = home / "services" / name
        assert (place / f"{name}.version").read_text() == version(name)
        with closing(sqlite3.connect(place / f"{name}-{release}.db")) as copy:
            (before,) = copy.execute("select version_num from alembic_version").fetchone()
        with closing(sqlite3.connect(place / f"{name}.db")) as now:
            (after,) = now.execute("select version_num from alembic_version").fetchone()
        assert before != after


def test_database_of_a_newer_version_is_refused_with_the_remedy_and_not_changed(home):
    place = home / "services" / "mlflow"
    record, written_by = supervisor.load(place), place / "mlflow.version"
    supervisor.stop(place, record)
    written_by.write_text("9.1.0")
    before = (place / "mlflow.db").read_bytes()
    with pytest.raises(ServiceError, match=r"written by mlflow 9\.1\.0.*install mlflow==9\.1\.0"):
        services.up()
    assert (place / "mlflow.db").read_bytes() == before
    written_by.write_text(version("mlflow"))
    services.up()


def test_killed_server_is_restarted(home, keeper):
    name = "mlflow"  # which starts in a third of the time of Prefect's
    before = {status.name: status for status in services.status()}
    killed = before[name].pid
    assert killed
    os.kill(killed, signal.SIGKILL)

    def restarted():
        after = {status.name: status for status in services.status()}
        return after[name].pid not in (killed, None) and after[name].healthy and after

    after = wait_for(restarted, 120, pause=0.1)
    assert after[name].state == "running"
    assert after[name].pid != killed
    assert after[name].url == before[name].url
    assert after["prefect"].pid == before["prefect"].pid


def test_stop_leaves_no_process_and_keeps_the_data(home, keeper):
    assert len(processes_of(home)) == 2, "each server is one process"
    ports = [supervisor.load(home / "services" / name) for name in services.CLIENT_VARIABLE]
    keeper.terminate()
    assert keeper.wait(60) == 0
    assert [status.state for status in services.status()] == ["stopped", "stopped"]
    assert [status.state for status in services.down()] == ["stopped", "stopped"]
    assert processes_of(home) == []
    assert all(record and processes.is_port_free(record.port) for record in ports)
    assert (home / "services/prefect/prefect.db").exists()
    assert (home / "services/mlflow/mlflow.db").exists()
    assert services.client_environment().keys().isdisjoint(services.CLIENT_VARIABLE.values())
