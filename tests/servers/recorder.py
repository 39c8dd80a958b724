"""An HTTP server on loopback that records the requests that it gets."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """A request."""

    path: str
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.body)


@dataclass
class Recorder:
    """The requests that a server has got, and the status that it answers."""

    url: str
    calls: list[Call] = field(default_factory=list)
    status: int = 200
    location: str | None = None
    """The Location of a redirect."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, number: int, timeout_s: float = 60) -> list[Call]:
        """Return the requests as soon as there are this many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= number, timeout_s), self.calls
            return list(self.calls)


@contextmanager
def serve_recorder() -> Iterator[Recorder]:
    """Run a server inside the `with`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with recorder.changed:
                recorder.calls.append(Call(self.path, headers, body))
                recorder.changed.notify_all()
            self.send_response(recorder.status)
            self.send_header("Content-Length", "0")
            if recorder.location:
                self.send_header("Location", recorder.location)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    recorder = Recorder(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
