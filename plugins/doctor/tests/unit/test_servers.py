"""Checks of servers that the environment names: wrong password, other version, wrong URL, missing driver."""

from contextlib import ExitStack
from importlib import metadata

import pytest

from dataops.errors import ConfigError
from infra.local import services
from plugins.doctor import servers as server_checks
from tests.servers.loopback import Handler, serving


class Answering(Handler):
    """Sends the given answers, and records the credentials of each request."""

    def do_GET(self):
        self.server.seen.append(self.headers.get("Authorization"))
        code, body = self.server.answers.get(self.path.partition("?")[0], (404, ""))
        self.answer(code, body.encode())


@pytest.fixture
def serve(monkeypatch):
    """Return a function that starts a server and sets an environment variable to its URL."""
    with ExitStack() as running:

        def start(variable, answers, path=""):
            server = running.enter_context(serving(Answering, answers=answers, seen=[]))
            monkeypatch.setenv(variable, f"{server.url}{path}")
            return server

        yield start


LOCKED = "/api/2.0/mlflow/experiments/search"


def mlflow_checks():
    (url,) = (status.url for status in services.status() if status.name == "mlflow")
    return server_checks.check_external("mlflow", url, answers=True)


def test_check_external_reports_a_refused_password(serve, monkeypatch):
    server = serve("MLFLOW_TRACKING_URI", {LOCKED: (401, "not authenticated"), "/health": (200, "OK")})
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    (check,) = mlflow_checks()
    assert (check.ok, check.severity) == (False, "error")
    assert "refuses access (HTTP 401)" in check.detail
    assert "MLFLOW_TRACKING_PASSWORD" in check.remedy
    assert "wrong" not in check.detail + check.remedy
    assert server.seen[-1] == "Basic bWU6d3Jvbmc="


def test_up_refuses_a_server_that_needs_a_password(serve):
    serve("PREFECT_API_URL", {"/api/admin/version": (401, "Unauthorized"), "/api/health": (200, "true")}, "/api")
    serve("MLFLOW_TRACKING_URI", {LOCKED: (200, "{}"), "/health": (200, "OK")})
    with pytest.raises(ConfigError, match=r"refuses access \(HTTP 401\): set PREFECT_API_KEY"):
        services.up()


@pytest.mark.parametrize(
    ("theirs", "ok", "severity"), [("same", True, "warning"), ("3.9999.0", False, "warning"), ("1.2.3", False, "error")]
)
def test_check_version_compares_client_and_server(serve, theirs, ok, severity):
    ours = metadata.version("mlflow")
    theirs = ours if theirs == "same" else theirs
    serve("MLFLOW_TRACKING_URI", {LOCKED: (200, "{}"), "/health": (200, "OK"), "/version": (200, theirs)})
    server, check = mlflow_checks()
    assert server.ok
    assert (check.ok, check.severity) == (ok, severity)
    assert theirs in check.detail
    assert ok or f"mlflow=={theirs}" in check.remedy


def test_url_of_prefect_without_api_is_named(serve):
    version = (200, f'"{metadata.version("prefect")}"')
    server = serve(
        "PREFECT_API_URL", {"/api/admin/version": version, "/api/health": (200, "true"), "/": (200, "<html>")}
    )
    _, check = server_checks.check_external("prefect", server.url, answers=True)
    assert (check.ok, check.severity, check.remedy) == (False, "error", f"export PREFECT_API_URL={server.url}/api")
    assert server_checks.check_external("prefect", f"{server.url}/api", answers=True)[1].ok
