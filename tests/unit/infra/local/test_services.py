import base64
import json
import os
import sys

import pytest

from dataops.errors import ConfigError, ServiceError
from dataops.redaction import redact
from infra.local import login, services, supervisor
from infra.local import supervisor as processes
from infra.local.supervisor import ServiceRecord
from tests.concurrency import wait_for
from tests.python_code import run_python
from tests.servers.loopback import Handler, serving


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))


@pytest.fixture
def answering():
    """Start an external web server that answers with 200, or with the status that `codes` has for a path."""
    codes = {}
    requests = []

    class Answering(Handler):
        def do_GET(self):
            requests.append((self.path, self.headers["Authorization"]))
            self.answer(codes.get(self.path, 200))

    with serving(Answering) as server:
        yield server.url, codes, requests


def record_running(name, port, *, pid=None):
    """Write a state file with the pid of a running process (by default this one)."""
    pid = pid or os.getpid()
    folder = services.home() / "services" / name
    folder.mkdir(parents=True)
    supervisor.save(
        folder,
        ServiceRecord(name, port, ("x",), "/", pid, processes.process_fingerprint(pid), "2026-01-01T00:00:00+00:00"),
    )
    return folder


def test_apply_environment_keeps_the_users_values_and_replaces_its_own(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    monkeypatch.setattr(sys, "modules", {name: module for name, module in sys.modules.items() if name != "prefect"})
    folder = record_running("prefect", 4321)
    effective = services.apply_environment()
    assert effective["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    record = supervisor.load(folder)
    moved = ServiceRecord("prefect", 4999, record.command, "/", record.pid, record.identity, record.started_at)
    supervisor.save(folder, moved)
    assert services.apply_environment()["PREFECT_API_URL"] == "http://127.0.0.1:4999/api"


def basic(credentials):
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def test_clients_of_our_server_get_its_login_in_place_of_the_users(monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:of-another-server")
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_of-another-server")
    ours = login.write_new_login()
    assert "PREFECT_API_AUTH_STRING" not in services.client_environment()
    with pytest.raises(ConfigError, match="does not run"):
        services.show_login()
    record_running("prefect", 4321)
    assert services.client_environment()["PREFECT_API_AUTH_STRING"] == services.show_login() == ours
    assert services.authorization("http://127.0.0.1:4321/api/flows") == basic(ours)
    assert services.authorization("http://127.0.0.1:4322/api/flows") == {}
    monkeypatch.setattr(sys, "modules", {name: module for name, module in sys.modules.items() if name != "prefect"})
    services.apply_environment()
    assert os.environ["PREFECT_API_AUTH_STRING"] == ours
    assert redact(f"x {ours} y") == "x *** y"
    newer = login.write_new_login()
    services.apply_environment()
    assert os.environ["PREFECT_API_AUTH_STRING"] == newer


@pytest.mark.parametrize("own_port", [4321, 9999])
def test_no_other_server_gets_the_login_of_ours(answering, monkeypatch, own_port):
    url, _, requests = answering
    ours = login.write_new_login()
    record_running("prefect", own_port)
    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", ours)  # from a parent process that used our server
    assert "PREFECT_API_AUTH_STRING" not in services.apply_environment()
    assert "PREFECT_API_AUTH_STRING" not in os.environ
    assert services.status()[0].healthy
    assert services.authorization(f"{url}/api/flows") == {}
    assert {header for _, header in requests} == {None}
    assert services.status()[0].login_file == ""
    with pytest.raises(ConfigError, match="PREFECT_API_URL names"):
        services.show_login()
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:of-that-server")
    services.apply_environment()
    assert services.authorization(f"{url}/api/flows") == basic("me:of-that-server")


def test_up_starts_nothing_beside_external_servers(answering, monkeypatch):
    url, codes, requests = answering
    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", "sqlite:///mine.db"
    )  # MLflow opens it itself, so there is nothing to check
    prefect, mlflow = services.up()
    assert (prefect.state, prefect.ui_url, mlflow.state, mlflow.ui_url) == ("external", url, "external", "")
    assert requests[0] == ("/api/health", "Bearer secret")
    assert not (services.home() / "services").exists()
    codes["/api/health"] = 404  # a hosted service without that path
    assert services.up()[0].healthy


@pytest.mark.parametrize("code", [401, 503])
def test_up_refuses_an_external_server_with_an_error(answering, monkeypatch, code):
    url, codes, _ = answering
    codes["/api/health"] = code
    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    with pytest.raises(ServiceError, match=f"PREFECT_API_URL names .*HTTP {code}.*unset PREFECT_API_URL"):
        services.up(external_patience_s=0)


def test_one_setting_makes_the_log_lines_of_flows_json_objects(monkeypatch):
    monkeypatch.setenv("PAIRMILL_LOG_FORMAT", "json")
    monkeypatch.setenv("FORCE_COLOR", "1")
    code = """
import logging
from prefect.logging.configuration import setup_logging
setup_logging()
from tasks.engine.process_guard import guard_process
guard_process()
logging.getLogger("flows.x").warning("two\\nlines of s3://user:hunter2@bucket")
"""
    done = run_python(code, **services.client_environment())
    line = json.loads(done.stderr)
    assert (line["name"], line["levelname"]) == ("flows.x", "WARNING")
    assert "hunter2" not in done.stderr
    assert "two" in line["msg"]


def test_down_ends_a_worker_before_the_server_to_which_it_reports(tmp_path):
    code = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
signal.sigtimedwait([signal.SIGUSR1], float(sys.argv[3]))  # the time in which a server that got its signal too would end
with open(sys.argv[1], "a") as order:
    order.write(sys.argv[2] + " ")
"""
    for name, seconds in (("prefect", "0"), ("worker-pool", "0.5")):
        command = [sys.executable, "-c", code, str(tmp_path / "order"), name, seconds]
        pid = supervisor.spawn(command, cwd=tmp_path, env=dict(os.environ), log=tmp_path / name)
        wait_for((tmp_path / name).read_text)
        record_running(name, 4321, pid=pid)
    services.down()
    assert (tmp_path / "order").read_text() == "worker-pool prefect "
