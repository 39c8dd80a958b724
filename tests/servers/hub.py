"""A server with the Hub's protocol for datasets: digests in listings and HEAD, ranges. It can cut and falsify files."""

import hashlib
import json
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.servers.loopback import Handler, serving

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories (name to files) and the requests to them."""

    repositories: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    """File to bytes after which the connection closes, once."""
    falsified: dict[str, bytes] = field(default_factory=dict)
    """File to the bytes that are sent instead of its own, of the same length."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, file, Range) of each request for content."""

    def handler(self):
        """Return the class that answers the requests."""
        return HubHandler

    def describe(self, name):
        """Return the revision of a repository, and whether it is private."""
        return {"sha": REVISION, "private": False}

    def __enter__(self):
        self._serving = serving(type("Handler", (self.handler(),), {"state": self}))
        self.url = self._serving.__enter__().url
        return self

    def __exit__(self, *_):
        self._serving.__exit__(None, None, None)


def git_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubHandler(Handler):
    """Answers the requests to `state`, a Hub."""

    state: Hub
    protocol_version = "HTTP/1.1"
    stored = ".tar"
    """Endings of the files that the Hub stores as LFS, with their sha256."""

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/"):
            self._listing("/".join(path.split("/")[3:5]))
        else:
            self._content(path)

    do_HEAD = do_GET

    def _listing(self, name):
        if name in self.state.gated:
            self._json(403, {"error": "Access to this dataset is restricted"}, {"X-Error-Code": "GatedRepo"})
        elif name not in self.state.repositories:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            files = self.state.repositories[name]
            siblings = [self._sibling(file, data) for file, data in files.items()]
            self._json(200, {"id": name, **self.state.describe(name), "tags": [], "siblings": siblings})

    def _sibling(self, file, data):
        found = {"rfilename": file, "size": len(data), "blobId": git_id(data)}
        if file.endswith(self.stored):
            found["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
        return found

    def _content(self, path):
        _, _, owner, name, _, revision, file = path.split("/", 6)
        assert revision == REVISION
        data = self.state.repositories[f"{owner}/{name}"].get(file)
        byte_range = self.headers.get("Range", "")
        self.state.asked.append((self.command, file, byte_range))
        if data is None:
            self._json(404, {}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha256(data).hexdigest() if file.endswith(self.stored) else git_id(data)
        start = int(byte_range.removeprefix("bytes=").partition("-")[0]) if byte_range else 0
        body = self.state.falsified.get(file, data)[start:]
        self.send_response(206 if byte_range else 200)
        if byte_range:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: self.state.cut.pop(file, len(body))])
            self.close_connection = True

    def _json(self, status, value, headers=None):
        self.answer(status, json.dumps(value).encode(), **(headers or {}))
