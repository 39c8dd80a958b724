"""An HTTP server on loopback that records the requests that it gets."""

import json
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.loopback import Handler, serving


@dataclass(frozen=True)
class Call:
    """A request."""

    path: str
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes

    def json(self):
        """Return the parsed body."""
        return json.loads(self.body)


@dataclass
class Recorder:
    """The requests that a server has got, and the status that it answers."""

    url: str
    calls: list[Call] = field(default_factory=list)
    status: int = 200
    first: list[int] = field(default_factory=list)
    """Statuses of the next requests, before `status`."""
    location: str | None = None
    """The Location of a redirect."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, number, timeout_s=60):
        """Return the requests as soon as there are this many."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= number, timeout_s), self.calls
            return list(self.calls)


@contextmanager
def serve_recorder():
    """Run a server inside the `with`."""

    class Recording(Handler):
        def do_POST(self):
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(self.path, headers, self.read_body())
            with recorder.changed:
                recorder.calls.append(call)
                status = recorder.first.pop(0) if recorder.first else recorder.status
                recorder.changed.notify_all()
            self.answer(status, **({"Location": recorder.location} if recorder.location else {}))

    with serving(Recording) as server:
        recorder = Recorder(server.url)
        yield recorder
