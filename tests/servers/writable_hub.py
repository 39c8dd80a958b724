"""A server with the Hub's protocol for uploads: repositories, LFS and commits. It can fail once, and asks for a token."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.servers.hub import Hub, HubHandler

TOKEN = "hf_" + "t" * 34


@dataclass
class WritableHub(Hub):
    """A Hub that takes uploads from who has the TOKEN."""

    private: dict[str, bool] = field(default_factory=dict)
    """By name: whether the repository is private."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by sha256, also of those that no commit names."""
    uploads: list[str] = field(default_factory=list)
    """sha256 of each uploaded object."""
    commits: list[list[str]] = field(default_factory=list)
    """Names in each commit, `-NAME` of a deleted file."""
    failing: set[str] = field(default_factory=set)
    """sha256 of objects whose upload the server refuses."""

    def handler(self):
        return _WritableHandler

    def describe(self, name):
        return {"sha": f"{len(self.commits):040x}", "private": self.private[name]}


class _WritableHandler(HubHandler):
    state: WritableHub  # pyright: ignore[reportIncompatibleVariableOverride]
    stored = (".tar", ".parquet", ".safetensors")

    def do_GET(self):
        if self._may_write():
            super().do_GET()

    def do_POST(self):
        body = self.read_body()
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        path = unquote(self.path.partition("?")[0])
        if path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
            return
        if not self._may_write():
            return
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.state.repositories[name], self.state.private[name] = {}, asked["visibility"] == "private"
            self._json(200, {"url": f"{self.state.url}/{name}", "id": name})
        elif found := re.fullmatch(r"/api/\w+/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(self.stored) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._json(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._json(200, {"transfer": "basic", "objects": [self._batch(one) for one in json.loads(body)["objects"]]})
        elif found := re.fullmatch(r"/api/\w+/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._json(404, {"error": path})

    def do_PUT(self):
        data = self.read_body()
        if self.path.startswith("/upload/"):
            digest = self.path.removeprefix("/upload/")
            if digest in self.state.failing or hashlib.sha256(data).hexdigest() != digest:
                self._json(400, {"error": "refused"})
                return
            self.state.objects[digest] = data
            self.state.uploads.append(digest)
            self._json(200, {})
        elif self._may_write():
            self.state.private["/".join(self.path.split("/")[3:5])] = json.loads(data)["visibility"] == "private"
            self._json(200, {"private": False})

    def _batch(self, wanted):
        if wanted["oid"] in self.state.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.state.url}/upload/{wanted['oid']}"}}}

    def _commit(self, name, lines):
        files, names = self.state.repositories[name], []
        for line in lines:
            key, value = str(line["key"]), line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            if key != "header":
                names.append(("-" if key == "deletedFile" else "") + value["path"])
        self.state.commits.append(names)
        oid = f"{len(self.state.commits):040x}"
        self._json(200, {"commitUrl": f"{self.state.url}/{name}/commit/{oid}", "commitOid": oid})

    def _may_write(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._json(401, {"error": "Invalid username or password."})
        return False

    def _chunks(self):
        while size := int(self.rfile.readline().strip() or b"0", 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
