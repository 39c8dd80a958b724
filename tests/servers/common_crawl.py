"""A server on loopback with Common Crawl's layout that can fail: broken connections, rate limits, wrong responses."""

import gzip
import threading
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.servers.loopback import Handler, serving


@dataclass
class Crawl:
    """The files of the server, and its planned failures: `plan[path]` is a queue with one failure for each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    plan: dict[str, deque[str]] = field(default_factory=dict)
    log: list[tuple[str, str | None, int]] = field(default_factory=list)
    """(path, Range, status) of each request."""
    agents: set[str] = field(default_factory=set)
    etags: Counter[str] = field(default_factory=Counter)
    url: str = ""
    gate: threading.Event = field(default_factory=threading.Event)
    """Until it is set, responses with the failure `wait` stop halfway."""

    def publish(self, crawl, files):
        """Add a crawl with its listing."""
        paths = {f"crawl-data/{crawl}/segments/1/wat/{name}.warc.wat.gz": data for name, data in files.items()}
        self.files |= paths
        self.files[f"crawl-data/{crawl}/wat.paths.gz"] = gzip.compress(
            "".join(f"{p}\n" for p in paths).encode(), mtime=0
        )

    def fail_next(self, path, *failures):
        """Plan the failures of the next requests for the path with this ending."""
        [full] = [name for name in self.files if name.endswith(path)]
        self.plan.setdefault(full, deque()).extend(failures)

    def read(self):
        """Return the names of the requested WAT files, one for each request."""
        return [path.rpartition("/")[2].partition(".")[0] for path, _, _ in self.log if path.endswith(".wat.gz")]


class _Handler(Handler):
    protocol_version = "HTTP/1.1"
    crawl: Crawl

    def do_GET(self):
        path = self.path.lstrip("/")
        crawl = self.crawl
        crawl.agents.add(self.headers.get("User-Agent", ""))
        queue = crawl.plan.get(path)
        failure = queue.popleft() if queue else ""
        data = crawl.files.get(path)
        if data is None:
            self.answer(404, b"no such file")
        elif failure.split()[0:1] in (["403"], ["429"], ["503"], ["500"], ["404"]):
            status, *after = failure.split()
            self.answer(int(status), b"slow down", **({"Retry-After": after[0]} if after else {}))
        elif failure.startswith("redirect "):
            self.answer(302, Location=failure.removeprefix("redirect "))
        else:
            if failure == "change":
                crawl.etags[path] += 1
            self._file(path, data, failure)

    def _file(self, path, data, failure):
        etag = f'"{len(data)}-{self.crawl.etags[path]}"'
        requested = self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, etag)
        headers = {"ETag": etag}
        status, start = 200, 0
        if requested and fresh and failure != "no-ranges":
            status, start = 206, int(requested.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if failure in ("break", "wait"):
            self.answer(status, body[: len(body) // 2], Content_Length=str(len(body)), **headers)
            self.wfile.flush()
            if failure == "wait":
                self.crawl.gate.wait(60)
            self.close_connection = True
        else:
            self.answer(status, body, **headers)

    def send_response(self, status, message=None):
        self.crawl.log.append((self.path.lstrip("/"), self.headers.get("Range"), status))
        super().send_response(status, message)


@contextmanager
def CrawlServer():
    """Serve a Crawl within a `with` block."""
    crawl = Crawl()
    with serving(type("Handler", (_Handler,), {"crawl": crawl})) as server:
        crawl.url = f"{server.url}/"
        yield crawl
        crawl.gate.set()
