"""Today's code reuses, shows, traces, takes down, collects and grows the projects that earlier releases left."""

import os
import tarfile
import time

import pytest

from dataops.schema import uid
from dataops.snapshot import SnapshotName, read_parts
from dataops.store import FolderStore
from flows.records import list_runs, load_manifests, load_run
from tasks.engine.context import Context
from tasks.growth.versions import find_packs, list_newest
from tests.growing import NIGHTS, run, web
from tests.stored_project import STORED, load_keys, of_lists, put_list, whole

__all__ = ["web"]  # a fixture
pytestmark = pytest.mark.timeout(300)
OLD = time.time() - 10 * 24 * 3600
REMOVED = NIGHTS[0][4]
"""A pair of the first night."""


@pytest.fixture(scope="module", params=sorted(STORED.glob("project-*.tar.xz")), ids=lambda path: path.name)
def project(request, tmp_path_factory):
    """Return the folder of a stored project; the tests change it one after the other."""
    folder = tmp_path_factory.mktemp("project")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        os.utime(path, (OLD, OLD))
    return folder


@pytest.fixture
def home(project, monkeypatch):
    monkeypatch.setenv("PAIRMILL_HOME", str(project / "home"))
    return project / "home"


def uids(store, packs):
    return {one for pack in packs for one in read_parts(store, pack, "part-", ["uid"])["uid"].to_pylist()}


def test_run_of_then_is_shown_and_reused_without_a_request(project, home, web):
    store = FolderStore(project / "store")
    [record] = [one for one in list_runs(home, store.uri) if one.name == "whole"]
    assert (record.name, record.state, record.last_stage) == ("whole", "completed", "pack")
    assert {
        one.stage: one.key for one in load_manifests(load_run(record.run_id, home, store.uri)[0], store)
    } == load_keys(project)
    web.log.clear()
    _, manifests = run(whole(web, project), home)
    assert {stage: manifest.key for stage, manifest in manifests.items()} == load_keys(project)
    assert web.log == []


def test_pair_is_traced_to_its_list_and_datasets(project, home, capsys):
    trace = pytest.importorskip("plugins.trace.command").command
    assert trace(REMOVED[0], store=str(project / "store"), json=True) == 0
    answer = capsys.readouterr().out
    assert "001.csv" in answer
    assert load_keys(project)["pack"] in answer


def test_dataset_grows_by_what_is_new(project, home, web):
    store = FolderStore(project / "store")
    [before] = list_newest(store)
    kept = uids(store, find_packs(store, before))
    put_list(project, 3, NIGHTS[2])
    web.log.clear()
    after, _ = run(of_lists(web, project), home)
    assert (after.number, after.line) == (3, before.line)
    asked = sorted(path for _, _, path in web.log if path[1:2].isdigit())
    assert asked == ["/10.png", "/11.png", "/6-again.png", "/8-encoded.jpg", "/9.png"]
    assert kept < uids(store, find_packs(store, after))


def test_what_nothing_needs_is_collected(project, home):
    retention = pytest.importorskip("plugins.retention.command")
    store = FolderStore(project / "store")
    roots = retention.Roots(store, retention.Policy(keep_runs=0))
    result = retention.delete_unneeded(
        retention.plan_deletions(store, roots()), Context(store=store, home=home, run_id="gc"), roots
    )
    assert SnapshotName("pack", load_keys(project)["pack"]) in {deletion.name for deletion in result.deleted}
    [newest] = list_newest(store)
    assert len(find_packs(store, newest)) == 3


def test_pair_is_taken_down_in_all_datasets(project, home, read_json):
    erasure = pytest.importorskip("plugins.erasure.command")
    store = FolderStore(project / "store")
    targets = project / "remove.txt"
    targets.write_text(REMOVED[0] + "\n")
    assert erasure.command(targets, delete_raw=True, yes=True, store=store.uri, json=True) == 0
    report = read_json()["stores"][0]
    assert report["incomplete"] is False
    [newest] = list_newest(store)
    assert uid(*REMOVED) not in uids(store, find_packs(store, newest))
    assert len(report["datasets"]) == 1, "that of the first night"
    for path in (project / "store").rglob("*.tar"):
        with tarfile.open(path) as shard:
            assert uid(*REMOVED) not in {name.partition(".")[0] for name in shard.getnames()}
