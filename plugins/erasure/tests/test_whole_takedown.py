"""A takedown that is killed at any moment is completed by the next call, and leaves no byte of a removed image."""

import os
import random
import re
import shutil
import time
from collections import defaultdict

import pyarrow as pa
import pytest

from dataops.errors import ConfigError, CorruptPart
from dataops.shards.tar import read_samples
from dataops.snapshot import Draft, SnapshotName, find_manifest, read_table
from dataops.store import FolderStore
from dataops.trace.targets import Target, image_targets
from plugins.erasure.leftovers import delete_leftovers, find_leftovers
from plugins.erasure.tests.homes import (
    REMOVED,
    Copies,
    FailingStore,
    KilledError,
    digests,
    find_images,
    find_texts,
    some_pairs,
    take_down,
)
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.engine.stage import make, plan, reuse
from tasks.lineage.graph import Lineage
from tasks.lineage.inventory import DAY, Inventory
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.inline_executor import inline_context
from tests.unit.tasks.dataset_chain import jpeg, pair


class RemoteStore(FailingStore):
    """A store whose versions share parts."""

    is_remote = True


def list_kinds(changes):
    """Return the number of a change in the middle of 6 kinds: parts of a snapshot are one kind, as no reader has them."""
    by_kind = defaultdict(list)
    for at, change in enumerate(changes, 1):
        if not re.match("(create|put) .*/_work/", change):  # a lease says nothing of what is done
            kind = re.sub(r"[0-9a-f]{8,}|[0-9]+", "#", change)
            by_kind[re.sub(r"((?:pack|download|curate)/#)/(?!manifest|_work).*", r"\1", kind)].append(at)
    assert len(by_kind) > 15
    return random.Random(7).sample(sorted(numbers[len(numbers) // 2] for numbers in by_kind.values()), 6)


def list_random(changes):
    return random.Random(39).sample(range(1, len(changes) + 1), 2)


@pytest.mark.timeout(600)  # 13 takedowns of a folder, and 5 of a store whose versions share parts
@pytest.mark.parametrize(
    ("kind", "choose"), [pytest.param(FailingStore, list_kinds, marks=pytest.mark.long), (RemoteStore, list_random)]
)
def test_takedown_killed_at_any_change_is_completed_by_the_next_call(kind, choose, copy_home, monkeypatch, capsys):
    home = copy_home("whole")
    whole = kind(home / "store", kill_at=10**9)
    assert {name.split("/")[0] for name in find_images(home)} == {"store", "copies"}
    assert take_down(home, whole, monkeypatch) == 0
    assert find_images(home) == find_texts(home) == set()
    kept = [n for n in range(12) if n not in REMOVED]
    assert all(Copies.path(home / "copies", pair(n)["url"]).exists() for n in kept)
    expected = digests(whole)
    assert any("pack/" in name for name in expected)
    for kill_at in choose(whole.changes):
        home = copy_home(f"killed-{kill_at}")
        with pytest.raises(KilledError):
            take_down(home, kind(home / "store", kill_at), monkeypatch)
        store = kind(home / "store", 10**9)
        assert take_down(home, store, monkeypatch) == 0, kill_at
        assert (find_images(home), find_texts(home)) == (set(), set()), kill_at
        assert digests(store) == expected, kill_at
        shutil.rmtree(home)
    capsys.readouterr()


def read_finished(store):
    """Return the record of the finished task of the unfinished download, and the uids of its rows."""
    draft = Draft(store, "download", "f" * 16)
    [record] = draft.finished().values()
    names = [part.name for part in record.parts if part.name.startswith(("part-", "dropped-"))]
    return record, {uid for name in names for uid in read_table(store, draft.path(name), ["uid"])["uid"].to_pylist()}


@pytest.mark.parametrize("kind", [FailingStore, RemoteStore])
def test_the_next_run_makes_nothing_again_and_another_packing_leaves_the_erased_pairs_out(
    kind,
    copy_home,
    monkeypatch,
    capsys,
):
    home = copy_home("next")
    store = kind(home / "store", 10**9)
    before = {stage: one for (stage, _), one in Lineage(store).manifests.items()}
    begun, had = read_finished(store)
    assert take_down(home, store, monkeypatch) == 0
    capsys.readouterr()
    finished, has = read_finished(store)
    assert has == had, "a run that resumes requests no image again"
    assert finished.counts.dropped == {"takedown": begun.counts.kept - finished.counts.kept}
    upstream = [Lineage(store).manifests[SnapshotName(stage, before[stage].key)] for stage in ("curate", "download")]
    assert [one.as_input() for one in upstream] == [before[stage].as_input() for stage in ("curate", "download")]
    context = inline_context(store, home)
    after = reuse(plan(PACK, PackConfig(shard_size=3), 0, upstream, store), context)
    assert after is not None, "the version that the takedown made"
    other = make(plan(PACK, PackConfig(shard_size=4), 0, upstream, store), context)
    assert other.counts == after.counts
    kept = [row for n, row in enumerate(some_pairs()) if n not in REMOVED and not row["drop_reason"]]
    left = {row["uid"]: row["data"] for row in kept}
    for version in (after, other):
        samples = {}
        for tar in version.named("", ".tar"):
            with store.open(version.path(tar.name)) as file:
                samples |= {key: members["jpg"] for key, members in read_samples(file, tar.name)}
        assert samples == left
    raw = upstream[1].named("00000", ".tar")[0]
    lost = store.root / upstream[1].path(raw.name)
    lost.chmod(0o600)
    lost.write_bytes(bytes(1024))
    with pytest.raises(CorruptPart, match="which a row of curate names"):
        make(plan(PACK, PackConfig(shard_size=5), 0, upstream, store), context)


def test_takedown_with_another_run_at_work_names_it_and_is_completed_after_it(copy_home, monkeypatch, read_json):
    home = copy_home("held")
    store = FolderStore(home / "store")
    draft = Draft(store, "download", "f" * 16)
    with hold_lease(draft, Context(store, home, run_id="another")):
        assert take_down(home, store, monkeypatch) == 3
        report = next(one for one in read_json()["stores"] if one["datasets"])
        assert "is being made by run another" in report["deleted"]["not_deleted"][f"download/{'f' * 16}"]
        with pytest.raises(ConfigError, match="run another"):
            delete_leftovers(Context(store, home), SnapshotName("download", "f" * 16), image_targets(jpeg(4)))
    begun = Draft(store, "pack", "e" * 16)  # without any object
    with hold_lease(begun, Context(store, home, run_id="another")):
        assert take_down(home, store, monkeypatch) == 3
        report = next(one for one in read_json()["stores"] if one["request"])
        assert "is being made by run another" in report["deleted"]["not_deleted"][f"pack/{'e' * 16}"]
    assert take_down(home, store, monkeypatch) == 0
    assert find_images(home) == set()


def test_gc_keeps_the_version_that_a_takedown_made(copy_home, monkeypatch, read_json):
    retention = pytest.importorskip("plugins.retention.command")
    Policy, Roots = retention.Policy, retention.Roots
    delete_unneeded, plan_deletions = retention.delete_unneeded, retention.plan_deletions
    home = copy_home("gc")
    store = FolderStore(home / "store")
    assert take_down(home, store, monkeypatch) == 0
    report = next(one for one in read_json()["stores"] if one["datasets"])
    (new,) = report["versions"].values()
    roots = Roots(store, Policy(keep_runs=1))
    assert SnapshotName("pack", new) in roots(), "the kept run used the version before it"
    two_days = time.time() - 2 * DAY
    for path in (home / "store").rglob("*"):
        if path.is_file():
            os.utime(path, (two_days, two_days))
    assert SnapshotName("pack", new) not in Roots(store, Policy(keep_runs=0))()
    planned = plan_deletions(store, Roots(store, Policy(keep_runs=0))())
    assert SnapshotName("pack", new) in {deletion.name for deletion in planned.snapshots}
    assert take_down(home, store, monkeypatch) == 0  # after gc has planned; it makes nothing new
    result = delete_unneeded(planned, Context(store, home, run_id="gc"), Roots(store, Policy(keep_runs=0)))
    assert result.spared[SnapshotName("pack", new)] == "a dataset version that a takedown made within a day"
    assert find_manifest(store, "pack", new, verify=True) is not None
    os.utime(home / "store" / "pack" / new / "manifest.json")
    for path in (home / "store" / "takedowns").iterdir():
        os.utime(path, (two_days, two_days))
    roots = Roots(store, Policy(keep_runs=0))
    roots.read_takedowns()
    kept = plan_deletions(store, roots()).kept
    assert kept[SnapshotName("pack", new)] == "a dataset version that a takedown made within a day"
    assert {name.stage for name in kept} >= {"pack", "curate", "download"}, "with its ancestors"


def test_unfinished_work_on_a_removed_pair_is_deleted_as_a_whole(tmp_path):
    """Else the finished tasks that remain name a shard that the takedown has replaced, and no rerun completes it."""
    store = FolderStore(tmp_path / "store")
    context, url = inline_context(store, tmp_path / "home"), "http://photos.test/1.png"
    name, kept = SnapshotName("curate", "a" * 16), SnapshotName("curate", "b" * 16)
    for one, target in ((name, url), (kept, "http://photos.test/2.png")):
        with hold_lease(Draft(store, *one), context):
            Draft(store, *one).put_table(
                "_work/inspected-00000.parquet", pa.table({"uid": ["0" * 32], "url": [target]})
            )
            store.put(f"{one}/_work/decisions-00000.table", b"decisions")
    removed = [Target("url", url)]
    assert [found.snapshot for found in find_leftovers(Inventory(store), removed)] == [name]
    assert delete_leftovers(context, name, removed) == 2
    assert all("/_work/lease-" in left for left in store.names(str(name)))
    assert f"{kept}/_work/decisions-00000.table" in store.names(str(kept))
