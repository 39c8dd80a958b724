"""Credentials reach the named server only, and what it answers has limits: MLflow's REST API among them."""

import contextlib
import json
import threading

import pytest

from dataops.errors import ServiceError
from tasks.tracking import rest
from tasks.web import named_server
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import basic_login, send_request
from tests.servers.loopback import Handler, serving
from tests.servers.recorder import serve_recorder

KEY = "key-of-the-server-0123"


@contextlib.contextmanager
def serve(answer):
    class Answering(Handler):
        def do_GET(self):
            self.read_body()
            with contextlib.suppress(OSError):
                answer(self)

        do_POST = do_GET

    with serving(Answering) as server:
        yield server.url


@pytest.fixture(scope="module")
def elsewhere():
    with serve_recorder() as recorder:
        yield recorder


@pytest.mark.parametrize("status", [302, 308])
def test_no_redirect_is_followed(status, elsewhere, monkeypatch):
    with serve(lambda handler: handler.answer(status, Location=elsewhere.url)) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", KEY)
        for call in (lambda: rest.get("runs/get", run_id="1"), lambda: rest.post("runs/create")):
            with pytest.raises(ServiceError, match=f"HTTP {status}; redirects are not followed"):
                call()
    assert elsewhere.calls == []


def test_an_answer_has_a_maximum_size_and_a_deadline(monkeypatch):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 65536)

    ended = threading.Event()

    def slow(handler):
        while not ended.wait(0.1):
            handler.wfile.write(b"H")

    with serve(endless) as url:
        with pytest.raises(FetchError, match="too_large"):
            send_request(url, limit=1 << 20)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(ServiceError, match="too_large"):
            rest.get("runs/get", run_id="1")
    with serve(slow) as url, pytest.raises(FetchError, match=r"timeout|bad_response"):
        send_request(url, timeout=0.5)
    ended.set()


def test_a_login_comes_from_the_environment_and_never_from_netrc(monkeypatch, tmp_path):
    def echo(handler):
        handler.answer(200, json.dumps({"login": handler.headers["Authorization"]}).encode())

    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password stolen\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve(echo) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert rest.get("a") == {"login": None}
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", KEY)
        assert rest.get("a") == {"login": f"Bearer {KEY}"}
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        assert rest.get("a") == {"login": "Basic bWU6"}
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert rest.get("a") is None, "MLflow's client knows proxies"
    assert basic_login("http://me:p%40ss@h") == {"Authorization": "Basic bWU6cEBzcw=="}


@pytest.mark.parametrize("address", ["10.1.2.3", "192.0.2.7", "fd00::1", "169.254.169.254"])
def test_a_key_is_not_sent_to_another_machine_without_encryption(address, monkeypatch):
    tried = []
    monkeypatch.setattr(named_server, "open_connection", lambda *given: tried.append(given))
    for host in (f"[{address}]" if ":" in address else address,):
        with pytest.raises(FetchError, match="not_encrypted"):
            send_request(f"http://{host}/", b"{}", encrypted=True)
    assert tried == []
