"""With real libraries and servers: pickle in a registry's artefact, wrong credentials of S3, servers with a login."""

import base64
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import boto3
import pytest

from dataops.errors import PairmillError, ServiceError
from dataops.home import CHECKOUT
from dataops.storage.s3 import S3Store, Transfers
from infra.local import services
from tests.kills.seaweed import SECRET

pytestmark = pytest.mark.timeout(120)

PLANT = """
import sys
from pathlib import Path
import mlflow.pyfunc

class Planted(mlflow.pyfunc.PythonModel):
    def __reduce__(self):
        return Path.touch, (Path(sys.argv[2]),)
    def predict(self, context, model_input, params=None):
        return model_input

mlflow.pyfunc.save_model(sys.argv[1], python_model=Planted(), pip_requirements=[])
try:
    mlflow.pyfunc.load_model(sys.argv[1])
except Exception as error:
    print(error)
"""
LOAD = """
import sys
from infra.local import services
services.apply_environment()
import mlflow.pyfunc
mlflow.pyfunc.load_model(sys.argv[1])
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(CHECKOUT)
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": arguments[0]}
    env |= environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=False
    )


def test_pickled_model_in_the_registry_is_rejected_by_name_and_not_run(tmp_path):
    model, mark = str(tmp_path / "model"), tmp_path / "ran"
    planted = python(PLANT, model, str(mark), MLFLOW_ALLOW_PICKLE_DESERIALIZATION="true")
    assert mark.exists(), f"the bomb is a dud: {planted.stdout} {planted.stderr}"
    mark.unlink()
    refused = python(LOAD, model, PAIRMILL_HOME=str(tmp_path / "home"))
    assert refused.returncode == 1
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" in refused.stderr
    assert not mark.exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "planted-wrong-secret"}, "Correct AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody", "AWS_SESSION_TOKEN": "planted-token"}, "AWS_ACCESS_KEY_ID|credentials"),
        ({"AWS_ENDPOINT_URL": "http://u:planted-password@127.0.0.1:9"}, "Check AWS_ENDPOINT_URL"),
    ],
)
def test_s3_errors_do_not_contain_credentials(s3_environment, environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PairmillError, match=message) as caught:
        S3Store("mill", "x", Transfers(check_seconds=0.5)).check_writable()
    for secret in (SECRET, *environment.values()):
        assert secret == "nobody" or secret not in str(caught.value)


def test_cached_copies_are_readable_only_by_the_user(s3_environment, tmp_path):
    with closing(boto3.client("s3")) as client:
        for _ in range(50):  # the server answers a little before its volumes are ready
            try:
                client.create_bucket(Bucket="private")
                break
            except client.exceptions.ClientError:
                time.sleep(0.2)
    store = S3Store("private", "x")
    store.check_writable()
    store.put("a/b", b"x")
    assert store.local("a/b").read_bytes() == b"x"
    assert (tmp_path / "home" / "cache").stat().st_mode & 0o077 == 0


class _Login(http.server.BaseHTTPRequestHandler):
    """Answers those who log in."""

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))  # pyright: ignore[reportAttributeAccessIssue]
        self.send_response(200 if self.headers.get("Authorization") else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def login() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Login) as server:
        server.seen = []  # pyright: ignore[reportAttributeAccessIssue]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_credentials_in_a_server_url_are_used_and_not_shown(login, monkeypatch, tmp_path):
    monkeypatch.setenv("PAIRMILL_HOME", str(tmp_path))
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    port = login.server_address[1]
    monkeypatch.setenv("PREFECT_API_URL", f"http://user:p%40ssword@127.0.0.1:{port}/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:p%40ssword@127.0.0.1:{port}")
    found = services.up()
    assert [status.healthy for status in found] == [True, True]
    assert set(login.seen) == {"Basic " + base64.b64encode(b"user:p@ssword").decode()}
    assert "p%40ssword" not in str(found)
    assert found[0].ui_url == f"http://127.0.0.1:{port}"
    login.seen.clear()
    monkeypatch.setenv("PREFECT_API_URL", "http://user:p%40ssword@127.0.0.1:9/api")
    with pytest.raises(ServiceError, match=r"PREFECT_API_URL names http://127\.0\.0\.1:9/api, ") as caught:
        services.up(external_patience_s=0)
    assert "ssword" not in str(caught.value)
