"""Credentials reach the named server only, and what it answers has limits: MLflow's REST API among them."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from dataops.errors import ServiceError
from tasks.tracking import rest
from tasks.web import named_server
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import basic_login, send_request
from tests.servers.recorder import Recorder, serve_recorder

KEY = "key-of-the-server-0123"


@contextlib.contextmanager
def serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with contextlib.suppress(OSError):
                answer(self)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Recorder]:
    with serve_recorder() as recorder:
        yield recorder


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status, elsewhere, monkeypatch):
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", elsewhere.url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with serve(redirect) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", KEY)
        for call in (lambda: rest.get("runs/get", run_id="1"), lambda: rest.post("runs/create")):
            with pytest.raises(ServiceError, match=f"HTTP {status}; redirects are not followed"):
                call()
    assert elsewhere.calls == []


def test_an_answer_has_a_maximum_size_and_a_deadline(monkeypatch):
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 65536)

    ended = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
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
    def echo(handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"login": handler.headers["Authorization"]}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

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
