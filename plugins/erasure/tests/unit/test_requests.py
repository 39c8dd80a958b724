"""The work of a takedown is in proportion to the shards that hold the pairs, on a store whose versions share parts."""

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from dataops import plugins
from dataops.snapshot import Draft, SnapshotName, find_manifest, read_parts
from dataops.store import FolderStore
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import Target
from plugins.erasure import command as takedown
from plugins.erasure.plan_command import LISTINGS, READINGS, estimate_requests, plan_takedown
from tasks.engine.context import Context
from tasks.engine.stage import make, plan, reuse
from tasks.lineage.inventory import Inventory, delete_snapshot
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tasks.search import INDEXES
from tests.inline_executor import InlineExecutor
from tests.unit.tasks.dataset_chain import chain, pair

SHARDS, FEWER = 18, 12
LISTED = 1000
"""Names that a request lists."""

COSTS = {
    **dict.fromkeys(("size", "find", "read", "put", "put_chunks", "create", "delete", "sweep", "sha256", "entries"), 1),
    **dict.fromkeys(("local", "delete_tree", "download"), 2),
    **dict.fromkeys(("copy", "read_ranges"), 3),
}
"""Requests of a call of dataops/storage/s3.py; a listing is one for each LISTED names."""


class CountingStore(FolderStore):
    """A folder that counts the requests that S3 would get."""

    is_remote = True

    def __init__(self, root):
        super().__init__(root)
        self.requests, self.listed, self._calls = Counter(), [], threading.local()

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name not in COSTS and name != "read_each":
            return found

        def call(*arguments, **options):
            if vars(self._calls).get("is_inside"):  # one call of the store by another
                return found(*arguments, **options)
            self._calls.is_inside = True
            try:
                answer = found(*arguments, **options)
                answer = list(answer) if isinstance(answer, Iterator) else answer
            finally:
                self._calls.is_inside = False
            if name == "entries":
                self.listed.append(len(answer))
            self.requests[name] += len(arguments[0]) if name == "read_each" else COSTS[name]
            return answer

        return call

    def count(self, scale=1.0):
        """Return the requests since the last count, in a store with `scale` times as many objects in each listing."""
        pages = sum(int(scale * names) // LISTED for names in self.listed)
        total = self.requests.total() + pages
        self.requests.clear()
        self.listed.clear()
        return total


class Project:
    """A store of which each request is counted, with a dataset of some pairs."""

    def __init__(self, folder, pairs, monkeypatch, more=()):
        self.home, self.store = folder, CountingStore(folder / "store")
        self.pairs = [pair(n, data=n.to_bytes(3) * 9) for n in range(pairs)]
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv("PAIRMILL_HOME", str(folder))
        monkeypatch.setattr(os, "fsync", lambda handle: None)
        monkeypatch.setattr("tasks.engine.map_parts.open_store", lambda uri: self.store)
        monkeypatch.setattr(takedown, "Context", partial(Context, pool=InlineExecutor()))
        monkeypatch.setattr(takedown, "known_stores", lambda *_: [self.store])
        made = chain(self.store, [*self.pairs, *more], 2)
        self.upstream = [made["curate"], made["download"]]

    def context(self, run_id="run"):
        return Context(self.store, self.home, run_id=run_id, pool=InlineExecutor())

    def run(self):
        planned = plan(PACK, PackConfig(shard_size=2), 0, self.upstream, self.store)
        return reuse(planned, self.context()) or make(planned, self.context())

    def take_down(self, capsys, *urls):
        (self.home / "request.txt").write_text("\n".join(urls))
        assert takedown.command(self.home / "request.txt", json=True) == 0
        (report,) = json.loads(capsys.readouterr().out)["stores"]
        return report

    def take_down_all(self, capsys, urls, *, delete_raw=False):
        files = [self.home / f"{number}.txt" for number in range(len(urls))]
        for file, url in zip(files, urls, strict=True):
            file.write_text(url)
        assert takedown.command(*files, delete_raw=delete_raw, yes=True, json=True) == 0
        found = json.loads(capsys.readouterr().out)
        return [one["stores"][0] for one in found.get("requests", [found])]

    def load(self, key):
        manifest = find_manifest(self.store, "pack", key, verify=True)
        return manifest


def test_one_url_in_a_thousand_shards_takes_few_requests_and_the_next_run_reuses_all(tmp_path, monkeypatch, capsys):
    pytest.importorskip("plugins.row_index")  # by which few tables are read
    counted = []
    for shards in (FEWER, SHARDS):
        project = Project(tmp_path / str(shards), 2 * shards, monkeypatch)
        count = partial(project.store.count, 1000 / shards)
        old = project.run()
        assert len(old.named("", ".tar")) == shards
        count()
        planned = plan_takedown(project.store, [Target("url", project.pairs[7]["url"])])
        assert not {"put", "create", "delete"} & project.store.requests.keys()
        assert (planned["datasets"], planned["pairs"], planned["shards"]) == ([old.key], 1, 1)
        pages = sum(int(1000 / shards * names) // LISTED for names in project.store.listed)
        count()
        report = project.take_down(capsys, project.pairs[7]["url"])
        took = count()
        assert abs(planned["requests"] + pages - took) <= took / 10
        (dataset,) = report["datasets"]
        assert (dataset["pairs"], len(dataset["rewritten"]), dataset["unchanged"]) == (1, 1, shards - 1)
        new = project.run()
        assert new.key == dataset["next"]
        again = count()
        assert project.take_down(capsys, "http://elsewhere.example/1.jpg")["datasets"] == []
        nothing = count()
        assert project.run() == new, "a request that matches nothing changes nothing"
        counted.append([took, again, nothing, count()])
    assert abs(counted[0][0] - counted[1][0]) <= 1, (
        "no request for each shard: the number for 1,000 is known from fewer"
    )
    took, *reused = counted[1]
    assert took <= 60, counted
    assert max(reused) <= 40, counted


def test_plan_counts_the_parts_of_a_dataset_without_an_index(tmp_path, monkeypatch, capsys):
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind: {} if kind == INDEXES else load(kind))
    project = Project(tmp_path / "a", 24, monkeypatch)
    project.run()
    planned = plan_takedown(project.store, [Target("url", project.pairs[7]["url"])])
    project.store.count()
    project.take_down(capsys, project.pairs[7]["url"])
    took = project.store.count()
    assert took > 4 * 12, "each part is read"
    assert abs(planned["requests"] - took) <= took / 10


def test_the_requests_of_a_night_are_one_next_version_and_one_listing(tmp_path, monkeypatch, capsys):
    project = Project(tmp_path / "a", 24, monkeypatch)
    old, store = project.run(), project.store
    urls = [row["url"] for row in read_parts(store, old).to_pylist()[:5]]  # of three shards
    before = {name for name in store.names("pack") if name.endswith(".tar")}
    store.count()
    reports = project.take_down_all(capsys, urls)
    assert sum(names > 50 for names in store.listed) == 1, "the store is listed once"
    assert len(reports) == 5
    assert {key for report in reports for key in report["versions"]} == {old.key}
    (next_key,) = {key for report in reports for key in report["versions"].values()}
    rewritten = {name for name in store.names("pack") if name.endswith(".tar")} - before
    assert len(rewritten) == 1, "of three shards two are empty now"
    assert [len(report["uids"]) for report in reports] == [1] * 5
    new = project.run()
    assert (new.key, new.counts.dropped) == (next_key, {"takedown": 5})
    assert not {row["url"] for row in read_parts(store, new).to_pylist()} & {*urls}


def test_the_requests_of_a_night_are_deleted_and_searched_in_one_pass(tmp_path, monkeypatch, capsys):
    counted = []
    for number in (1, 3):
        project = Project(tmp_path / str(number), 24, monkeypatch)
        old, store = project.run(), project.store
        urls = [row["url"] for row in read_parts(store, old).to_pylist()[:number]]
        store.count()
        reports = project.take_down_all(capsys, urls, delete_raw=True)
        counted.append(store.count())
        assert [len(report["uids"]) for report in reports] == [1] * number
        assert {key for report in reports for key in report["versions"]} == {old.key}
        assert [report["deleted"]["datasets"] for report in reports] == [[old.key]] * number
        assert [report["search"]["found"] for report in reports] == [[]] * number
        assert not {row["url"] for row in read_parts(store, project.run()).to_pylist()} & {*urls}
    assert counted[1] < 1.5 * counted[0], counted


def test_a_deletion_reads_each_table_once_and_no_shard(tmp_path, monkeypatch, capsys):
    pytest.importorskip("plugins.row_index")
    took, url = list[int](), pair(7)["url"]
    for shards in (FEWER, SHARDS):
        again = pair(1000, "page_opt_out", "extract", url=url, caption="the same image on another page")
        project = Project(tmp_path / str(shards), 2 * shards, monkeypatch, [again])
        project.run()
        store = project.store
        planned = plan_takedown(store, [Target("url", url)])["requests_to_delete"]
        store.count()
        (report,) = project.take_down_all(capsys, [url], delete_raw=True)
        assert sum(names > 5 * shards for names in store.listed) == LISTINGS
        took.append(store.count())
        assert abs(planned - took[-1]) <= took[-1] / 10
        erased = report["search"]["erased"]["rows"]
        assert {name.partition("/")[0]: rows for name, rows in erased.items()} == {"extract": 1, "curate": 1}
        assert (report["search"]["found"], report["incomplete"]) == ([], False)
        assert report["search"]["searched"][0]["proved"] > 9 * shards
    # of a shard, extract and filter have one table here, of a source file two
    each = READINGS["extract"] + READINGS["filter"] + 2 * READINGS["download"] + 2 * READINGS["curate"]
    assert (took[1] - took[0]) / (SHARDS - FEWER) == each
    assert estimate_requests(0, 1000, 900) - estimate_requests(0, 0, 0) == 1000 * each - 3 * 1000 + LISTINGS * 8


def test_versions_that_share_a_shard_cost_one_rewrite_and_are_deleted_one_by_one(tmp_path, monkeypatch, capsys):
    project = Project(tmp_path / "a", 12, monkeypatch)
    store, versions = project.store, [project.run()]
    shards = {row["url"]: row["shard"] for row in read_parts(store, versions[0]).to_pylist()}
    urls = list({shard: url for url, shard in shards.items()}.items())  # one of each shard
    for _, url in urls[:3]:
        (next_key,) = {one["next"] for one in project.take_down(capsys, url)["datasets"]}
        versions.append(project.load(next_key))
    assert len({one.key for one in versions}) == 4
    assert len({one.named(urls[3][0])[0].sha256 for one in versions}) == 1
    before = {name for name in store.names("pack") if name.endswith(".tar")}
    report = project.take_down(capsys, urls[3][1])
    assert len(report["datasets"]) == 4
    (next_key,) = {one["next"] for one in report["datasets"]}
    assert len({name for name in store.names("pack") if name.endswith(".tar")} - before) == 1
    last, before = project.load(next_key), store.names("pack")
    project.take_down(capsys, urls[3][1])
    assert store.names("pack") == before, "a repeated takedown makes nothing"
    assert project.run() == last
    removed = {url for _, url in urls[:4]}
    assert {row["url"] for row in read_parts(store, last).to_pylist()} == shards.keys() - removed
    other = Project(tmp_path / "b", 12, monkeypatch)
    for _, url in urls[:4]:
        record_request(other.store, make_request([Target("url", url)], ""))
    anew = other.run()
    assert not anew.homes
    assert anew.content_digest == last.content_digest, "packing anew gives the same bytes"
    same = ("parent", "takedowns", "commitments")  # of the first version, which models saw
    assert {k: v for k, v in anew.facts.items() if k not in same} == {
        k: v for k, v in last.facts.items() if k not in same
    }
    monkeypatch.setattr("tasks.engine.map_parts.open_store", lambda uri: store)
    for version in versions:
        shared = Inventory(store, "pack").list_shared(SnapshotName("pack", version.key))
        delete_snapshot(Draft(store, "pack", version.key), project.context("gc"), shared)
        assert project.load(last.key) == last
        assert project.run() == last
