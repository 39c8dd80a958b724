"""A home with a store of which pairs are taken down, and the remaining copies of them."""

import base64
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataops.images.decode import decode, make_preview
from dataops.snapshot import Draft, Record, find_manifest
from dataops.store import FolderStore
from dataops.trace.targets import image_targets
from flows.records import Attempt, RunRecord, StageRun
from plugins.erasure import command as takedown
from plugins.erasure import erasure
from tasks.download.hooks import FetchHook
from tasks.engine.context import Context, LeaseTimes
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.inline_executor import InlineExecutor, inline_context
from tests.unit.tasks.dataset_chain import chain, jpeg, pair

REMOVED = (3, 4, 9)
"""Numbers of the removed pairs: by domain, by URL and by phash."""


def some_pairs():
    hashes = {9: image_targets(jpeg(9))[1].value}
    return [
        pair(n, page_url=f"https://site{n}.example/p", phash=hashes.get(n, f"{n:016x}"), caption=f"caption no. {n}")
        for n in range(12)
    ]


class Copies(FetchHook):
    """Keeps images in a folder."""

    @staticmethod
    def path(folder, url):
        return folder / url.replace("/", "_")

    def list_copies(self, table):
        return [table["copies"]]

    def erase(self, folder, urls, targets):
        return sum(path.unlink() is None for url in urls if (path := self.path(Path(folder), url)).exists())


class KilledError(BaseException):
    """Stands for SIGKILL: nothing that follows it changes the store."""


class FailingStore(FolderStore):
    """A store whose user is killed before the change of a number."""

    def __init__(self, root, kill_at):
        super().__init__(root)
        self.changes, self.kill_at = [], kill_at

    def _count(self, name):
        self.changes.append(name)
        if len(self.changes) >= self.kill_at:
            raise KilledError

    def put(self, name, data):
        self._count(f"put {name}")
        super().put(name, data)

    def create(self, name, data):
        self._count(f"create {name}")
        return super().create(name, data)

    def copy(self, source, target):
        self._count(f"copy {target}")
        super().copy(source, target)

    def delete(self, names):
        for name in names:
            self._count(f"delete {name}")
            super().delete([name])

    def delete_tree(self, prefix):
        self.delete(self.names(prefix))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A home with a store of raw shards, a dataset, a half-made download, and a folder of copies."""
    home = tmp_path_factory.mktemp("home")
    store = FolderStore(home / "store")
    made = chain(store, some_pairs(), 5)
    dataset = make(
        plan(PACK, PackConfig(shard_size=3), 0, [made["curate"], made["download"]], store),
        inline_context(store, home),
    )
    put_unfinished(store, made["download"], "f" * 16)
    (home / "copies").mkdir()
    for row in some_pairs():
        Copies.path(home / "copies", row["url"]).write_bytes(row["data"])
    record = RunRecord(
        run_id="run", name="n", created_at="2026-01-01T00:00:00+00:00", state="completed",
        attempts=[Attempt(started_at="2026-01-01T00:00:00+00:00", host="h", pid=1)], config={},
        stages=[StageRun(stage="pack", key=dataset.key, state="Completed")],
    )  # fmt: skip
    record.save(store)
    return home


def put_unfinished(store, download, key):
    """Copy a download without its manifest, as a killed run leaves it: one task is finished, and one is half-written."""
    draft = Draft(store, "download", key)
    tables = download.named("part-", ".parquet")
    for part in tables[:1]:
        number = part.name.removeprefix("part-").removesuffix(".parquet")
        parts = [one for one in download.parts if number in one.name]
        for one in parts:
            store.copy(download.path(one.name), draft.path(one.name))
        draft.finish(Record(task=f"shard-{number}", parts=parts))
    store.copy(download.path("00001.tar"), draft.path("00001.tar"))


@pytest.fixture
def copy_home(template, tmp_path, monkeypatch):
    now = LeaseTimes(orphan=0)
    monkeypatch.setattr(takedown, "Context", partial(Context, pool=InlineExecutor(), lease_times=now))
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no test loses power

    def copy(name):
        home = tmp_path / name
        shutil.copytree(template, home)
        (home / "request.txt").write_text(f"site3.example\nhttp://host1.example/4.jpg\n{image_targets(jpeg(9))[1]}\n")
        path = home / "store" / "runs" / "run.json"
        record = json.loads(path.read_text())
        record["config"]["download"] = {"copies": str(home / "copies")}
        path.write_text(json.dumps(record))
        return home

    return copy


def take_down(home, store, monkeypatch):
    monkeypatch.setattr(takedown, "known_stores", lambda *_: [store])
    monkeypatch.setattr(erasure, "load_hooks", lambda: {"copies": Copies()})
    monkeypatch.setenv("PAIRMILL_HOME", str(home))
    return takedown.command(home / "request.txt", delete_raw=True, yes=True, json=True)


def find_images(home):
    """Return the files that hold a removed image or its preview."""
    previews = [make_preview(decode(jpeg(n))) for n in REMOVED]
    searched = [jpeg(n) for n in REMOVED] + [base64.b64encode(preview) for preview in previews]
    files = [path for path in home.rglob("*") if path.is_file()]
    return {str(path.relative_to(home)) for path in files if any(data in path.read_bytes() for data in searched)}


def find_texts(home):
    """Return the files of the store, but the requests, with the URL or the caption of a removed pair."""
    texts = {text for n in REMOVED for text in (pair(n)["url"], f"caption no. {n}")}
    found = set()
    for path in (home / "store").rglob("*"):
        if not path.is_file() or path.parent.name == "takedowns":
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data = repr(pq.read_table(path).to_pylist()).encode()
        if any(text.encode() in data for text in texts):
            found.add(str(path.relative_to(home)))
    return found


def digests(store):
    """Return the content digest of each complete snapshot, after all its parts were read."""
    found = {}
    for name in store.names(""):
        if name.endswith("/manifest.json"):
            stage, key, _ = name.split("/")
            manifest = find_manifest(store, stage, key, verify=True)
            found[f"{stage}/{key}"] = manifest.content_digest
    return found
