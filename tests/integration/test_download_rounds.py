"""Retries failed rows in rounds and by `rerun --retry`, as further shards, also after a kill at any moment."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import pytest

from dataops.errors import ContractError
from dataops.home import CHECKOUT
from dataops.shards.tar import read_samples
from dataops.snapshot import find_manifest, read_parts
from dataops.store import FolderStore
from tasks.curate.stage import CURATE, CurateConfig
from tasks.download import stage
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.downloads import GONE, MOODY, URLS, planned_in
from tests.servers.hostile_web import picture
from tests.servers.loopback import Handler, serving

pytestmark = pytest.mark.timeout(240)


class Moody(Handler):
    """/ok/N.png answers; /moody/N.png only once `mood` is good, with 500 before; /gone/N.png never, with 404.

    Not 503: that asks for a rest, and which rows are still asked for then depends on the threads.
    """

    mood = "good"
    seen: ClassVar[Counter[str]] = Counter()
    patience = 0
    """Requests of /moody/ that are refused before the mood is good."""

    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind not in ("ok", "moody", "gone"):  # robots.txt and its like
            self.send_error(404)
            return
        Moody.seen[self.path] += 1
        if kind == "moody" and Moody.patience > 0:
            Moody.patience -= 1
            self.send_error(500)
        elif kind == "gone" or (kind == "moody" and Moody.mood == "bad"):
            self.send_error(404 if kind == "gone" else 500)
        else:
            self.answer(200, picture(int(self.path.rpartition("/")[2].split(".")[0])))


@pytest.fixture
def moody():
    Moody.mood, Moody.seen, Moody.patience = "good", Counter(), 0
    with serving(Moody) as server:
        yield server


@pytest.fixture
def context(tmp_path, one_thread):
    return Context(FolderStore(tmp_path / "store"), tmp_path, workers=1, pool=one_thread)


def outcome(store, manifest):
    """Return the drop reason of each URL, after checks of all shards."""
    kept, dropped = read_parts(store, manifest).to_pylist(), read_parts(store, manifest, "dropped-").to_pylist()
    assert sorted(row["url"] for row in kept + dropped) == sorted(URLS)
    keys = []
    for part in manifest.named("", ".tar"):
        with store.open(manifest.path(part.name)) as file:
            keys += [(part.name, key) for key, _ in read_samples(file, part.name)]
    assert sorted(keys) == sorted((row["shard"], row["uid"]) for row in kept)
    return {row["url"]: row.get("drop_reason") for row in kept + dropped}


def test_temporary_failures_are_retried_in_later_shards(context, moody):
    store = FolderStore(context.home / "store")
    Moody.patience = MOODY + 4  # all of the first round, and some of the second
    manifest = make(planned_in(store, moody), context)
    assert manifest.counts.dropped == {"http_404": GONE}
    assert {url for url, why in outcome(store, manifest).items() if why} == {url for url in URLS if "/gone/" in url}
    assert [part.name for part in manifest.named("", ".tar")] == [f"0000{i}.tar" for i in range(5)]
    assert [part.rows for part in manifest.named("part-")][3:] == [MOODY - 4, 4], "one shard in each later round"
    assert sum(Moody.seen[url.removeprefix("http://site.test")] for url in URLS if "/gone/" in url) == GONE
    assert sum(n for path, n in Moody.seen.items() if path.startswith("/moody/")) == 2 * MOODY + 4
    assert manifest.facts["hosts"] == {"site.test": {"rows": 45, "http_404": GONE}}

    curated = make(plan(CURATE, CurateConfig(), 0, [manifest]), context)
    packed = make(plan(PACK, PackConfig(shard_size=30), 0, [curated, manifest]), context)
    assert packed.facts["samples"] == curated.counts.kept == 45 - GONE


FORKING = """
import multiprocessing, os, sys, types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import tasks.download.worker
from dataops.store import FolderStore
from tasks.engine.context import start_worker
from tasks.download import stage
from tasks.download.stage import DOWNLOAD
from tasks.engine.context import Context
from tasks.engine.stage import make
from tests.downloads import planned_in

place, server = Path(sys.argv[1]), types.SimpleNamespace(server_port=int(sys.argv[2]))
for line in sys.stdin:
    if (child := os.fork()) == 0:
        os.setsid()
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(2, fork, initializer=start_worker, initargs=(os.getpid(),)) as pool:
            make(planned_in(FolderStore(place), server), Context(FolderStore(place), place.parent, workers=2, pool=pool))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""
"""Program that makes the snapshot in a child process for each line that it reads, so that it loads slow modules once."""


def test_download_ends_with_the_same_digest_after_a_kill_at_any_moment(tmp_path, context, moody):
    Moody.mood = "bad"
    reference = FolderStore(tmp_path / "peace")
    expected = make(planned_in(reference, moody), replace(context, store=reference))
    assert expected.facts["shards"] == 5, "three shards, and one in each of two rounds"
    store = FolderStore(tmp_path / "store")
    command = [sys.executable, "-c", FORKING, str(tmp_path / "store"), str(moody.server_port)]
    folder = tmp_path / "store" / "download" / expected.key
    kills = 0
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as parent:
        # A kill when nothing is there, amid the objects of a shard, and between shards and rounds.
        for objects in (0, 3, 6, 9, 12, 16, 20, 24, 28):
            parent.stdin.write("make it\n")
            child, ended = int(parent.stdout.readline()), threading.Event()
            watcher = threading.Thread(target=lambda ended=ended: (parent.stdout.readline(), ended.set()))
            watcher.start()
            while not ended.is_set() and sum(1 for _ in folder.rglob("*.*")) <= objects:
                time.sleep(0.002)
            if not ended.is_set():
                os.killpg(child, signal.SIGKILL)
                kills += 1
            watcher.join()
        parent.stdin.close()
    assert kills >= 6, "most moments came too late"
    manifest = make(planned_in(store, moody), context)
    assert (manifest.content_digest, manifest.counts) == (expected.content_digest, expected.counts)
    assert find_manifest(store, "download", manifest.key, verify=True) == manifest
    there = {name.rpartition("/")[2] for name in store.names(f"download/{manifest.key}")}
    assert there == {p.name for p in manifest.parts} | {"manifest.json"}
    assert json.loads((folder / "manifest.json").read_text())["content_digest"] == expected.content_digest


@pytest.mark.parametrize("damaged", [None, "00000.tar"])
def test_what_an_older_version_has_fetched_is_not_requested_again(context, moody, monkeypatch, caplog, damaged):
    """Of a killed run of an accepted version, whole shards are copied; a damaged one is fetched again."""
    pytest.importorskip("plugins.older_downloads")
    store, fetch = context.store, stage.download_shard
    caplog.set_level("INFO")

    def fail(draft, task):
        if task.cut.number == 2:
            raise ContractError("killed")
        return fetch(draft, task)

    today = planned_in(store, moody)
    [(version, key)] = today.older.items()
    older = replace(today, stage=replace(DOWNLOAD, version=version), key=key, older={})
    monkeypatch.setattr(stage, "download_shard", fail)
    with pytest.raises(ContractError, match="killed"):
        make(older, context)
    before = Moody.seen.copy()
    if damaged:
        path = context.home / "store" / "download" / key / damaged
        path.write_bytes(bytes(path.stat().st_size))
    monkeypatch.setattr(stage, "download_shard", fetch)
    manifest = make(today, context)
    assert sorted(url for url, why in outcome(store, manifest).items() if why) == [
        u for u in sorted(URLS) if "/gone/" in u
    ]
    assert manifest.counts.dropped == {"http_404": GONE}
    rows = 15 if damaged else 30
    assert manifest.facts["imported"] == {"version": version, "key": key, "rows": rows}
    assert (Moody.seen - before).total() == len(URLS) - rows
    assert f"took over {rows} rows that version {version} of the stage has fetched (download/{key})" in caplog.text
    assert ("00000.tar is damaged, so the rows of shard-00000 are fetched again" in caplog.text) == bool(damaged)
    there = {name.rpartition("/")[2] for name in store.names(f"download/{manifest.key}")}
    assert there == {p.name for p in manifest.parts} | {"manifest.json"}
    assert find_manifest(store, "download", manifest.key, verify=True) == manifest


def test_run_of_an_older_version_is_waited_for(context, moody, monkeypatch, caplog):
    pytest.importorskip("plugins.older_downloads")
    caplog.set_level("INFO")
    fetch, begun, may_go_on = stage.download_shard, threading.Event(), threading.Event()

    def wait(draft, task):
        begun.set()
        assert may_go_on.wait(120)
        return fetch(draft, task)

    today = planned_in(context.store, moody)
    [(version, key)] = today.older.items()
    monkeypatch.setattr(stage, "download_shard", wait)
    with ThreadPoolExecutor(2) as both:
        older = replace(today, stage=replace(DOWNLOAD, version=version), key=key, older={})
        first = both.submit(make, older, context)
        assert begun.wait(120)
        second = both.submit(make, today, context)
        while not second.done() and f"download {key}: waiting for" not in caplog.text:
            time.sleep(0.01)
        may_go_on.set()
        expected, manifest = first.result(), second.result()
    assert Moody.seen.total() == len(URLS)
    assert manifest.facts["imported"] == {"version": version, "key": key, "rows": len(URLS)}
    assert (manifest.content_digest, manifest.counts) == (expected.content_digest, expected.counts)
