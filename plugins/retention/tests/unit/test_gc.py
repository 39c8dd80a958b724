"""What gc keeps and deletes in stores of synthetic snapshots: compared with a slow reference, and in races."""

import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.digest import canonical_json
from dataops.errors import ConfigError, CorruptPart
from dataops.snapshot import Draft, Record, SnapshotName, find_manifest
from dataops.stages import STAGES
from dataops.store import FolderStore
from flows.records import RunRecord
from plugins.retention.command import KEEP_RUNS, Policy, Roots, _find_local
from plugins.retention.deletion import delete_unneeded, plan_deletions
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.lineage.inventory import DAY
from tests.stored_snapshots import age, names, put, put_run

NOW = time.time()


def gc(store, policy, models=None):
    """Run gc and return the remaining snapshots."""
    roots = Roots(store, policy)
    roots.models = dict(models or {})
    delete_unneeded(
        plan_deletions(store, roots()), Context(store=store, home=store.root.parent / "home", run_id="gc"), roots
    )
    return names(store)


# Compared with a slow reference ---------------------------------------------------------------------------------------


@dataclass
class History:
    """A synthetic history: the inputs of each snapshot, and the runs that used it."""

    inputs: dict[SnapshotName, list[SnapshotName]] = field(default_factory=dict)
    kinds: dict[SnapshotName, str] = field(default_factory=dict)
    runs: list[tuple[str, float, str, list[SnapshotName]]] = field(default_factory=list)
    models: list[SnapshotName] = field(default_factory=list)
    keep: int = 1


@st.composite
def histories(draw):
    history = History(keep=draw(st.integers(0, 2)))
    stages = sorted(draw(st.lists(st.integers(0, len(STAGES) - 1), min_size=4, max_size=10)))
    for number, stage in enumerate([*stages, len(STAGES) - 1]):
        name = SnapshotName(STAGES[stage], f"{number:016x}")
        below = [other for other in history.inputs if STAGES.index(other.stage) < stage]
        history.inputs[name] = (
            draw(st.lists(st.sampled_from(below), unique=True, min_size=1, max_size=3)) if below else []
        )
        history.kinds[name] = draw(
            st.sampled_from(("complete", "complete", "complete", "fresh", "stale", "bare", "swept"))
        )
    everything = st.lists(st.sampled_from(sorted(history.inputs)), unique=True, max_size=4)
    for _ in range(draw(st.integers(1, 5))):
        days = draw(st.sampled_from((1.0, 20.0, 40.0))) + len(history.runs) / 100
        state = draw(st.sampled_from(("completed", "failed")))
        history.runs.append((draw(st.sampled_from(("a", "b"))), days, state, draw(everything)))
    history.models = [name for name in draw(everything) if name.stage == "register"]
    return history


def build(history, store):
    for name, inputs in history.inputs.items():
        kind = history.kinds[name]
        if kind != "swept":  # an earlier gc deleted it
            work = {"fresh": "new", "stale": "old"}.get(kind)
            put(store, name, inputs, complete=kind == "complete", work=work)
    for number, (name, days, state, used) in enumerate(history.runs):
        put_run(store, f"run-{number}", used, days=days, name=name, state=state)


def reference(history):
    """Return what gc must keep: add the inputs of kept snapshots until nothing changes."""
    kept = {name for name in history.inputs if history.kinds[name] == "fresh"} | set(history.models)
    for name, days, state, used in history.runs:
        newer = [r for r in history.runs if r[0] == name and r[1] < days]
        if len(newer) < history.keep or (state == "failed" and days < 30):
            kept |= set(used)
    kept = {name for name in kept if history.kinds[name] != "swept"}
    while True:
        makers = [name for name in kept if history.kinds[name] == "complete"]  # only a manifest names its inputs
        more = {i for name in makers for i in history.inputs[name] if history.kinds[i] != "swept"}
        if more <= kept:
            return kept
        kept |= more


@given(histories())
def test_gc_keeps_what_a_slow_reference_keeps(history):
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("os.fsync"),
    ):  # there is no power loss in this test, and syncing is slow
        store = FolderStore(Path(folder) / "store")
        build(history, store)
        before = {name: find_manifest(store, *name) for name in names(store)}
        models = {name: "a version" for name in history.models}
        remaining = gc(store, Policy(history.keep), models)
        assert remaining == reference(history)
        for name in remaining:
            assert find_manifest(store, *name) == before[name]
        assert gc(store, Policy(history.keep), models) == remaining


# Single cases ---------------------------------------------------------------------------------------------------------

EXTRACT, OTHER, FILTER = (
    SnapshotName("extract", "a" * 16),
    SnapshotName("extract", "b" * 16),
    SnapshotName("filter", "c" * 16),
)


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


def test_policy_keeps_the_newest_runs_of_each_name_and_unfinished_ones_for_a_month(store):
    for number in range(KEEP_RUNS + 3):
        put_run(store, f"a-{number:02d}", [], days=number)
    put_run(store, "b-old", [], days=400, name="b")
    for days in (1, 29, 31):
        put_run(store, f"a-failed-{days}", [], days=100 if days == 31 else days, state="failed")
    roots = Roots(store, Policy())
    roots()
    unneeded = set(roots.records) - set(roots.kept)
    assert unneeded == {"a-09", "a-10", "a-11", "a-12", "a-failed-31"}  # a-failed-1 is one of the ten
    by_age = Roots(store, Policy.from_options(None, "3d"))
    by_age()
    assert set(by_age.kept) == {"a-00", "a-01", "a-02", "a-failed-1"}


@pytest.mark.parametrize("text", ["", "3", "3 d", "-3d", "\u0663d", "9" * 400 + "d", "9" * 5000 + "d"])
def test_unusable_age_is_refused(text):
    with pytest.raises(ConfigError, match=r"--older-than .*: write a number of hours, days or weeks"):
        Policy.from_options(None, text)


def test_policy_keeps_a_running_run_of_this_machine_of_any_age(store):
    record = RunRecord(run_id="now", name="n", created_at="2020-01-01T00:00:00+00:00", config={})
    record.begin()
    record.attempts[-1].started_at = record.created_at
    record.save(store)
    put_run(store, "newer", [])
    roots = Roots(store, Policy(0))
    roots()
    assert roots.kept == {"now": "a run that is running"}


def test_gc_deletes_old_scratch_objects_and_partial_files_but_not_new_ones(store):
    put(store, EXTRACT, [], work="old")
    put(store, OTHER, [], work="new")
    put_run(store, "r", [EXTRACT, OTHER])
    old, new = store.root / ".tmp-old", store.root / "extract" / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (NOW - 2 * DAY, NOW - 2 * DAY))
    assert gc(store, Policy()) == {EXTRACT, OTHER}
    assert not store.names(f"{EXTRACT}/_work")
    assert store.names(f"{OTHER}/_work")
    assert (old.exists(), new.exists()) == (False, True)


def test_gc_deletes_the_index_entries_of_deleted_extract_snapshots(store):
    for key, name in ((EXTRACT.key, "kept"), (OTHER.key, "gone"), ("f" * 16, "never")):
        memory = {"key": key, "record": Record(task="t").model_dump()}
        store.put(f"extract/by-source/{name}.json", canonical_json(memory).encode())
    store.put("extract/by-source/empty.json", b"")
    put(store, EXTRACT, [])
    put(store, OTHER, [])
    put_run(store, "r", [EXTRACT])
    gc(store, Policy())
    assert store.names("extract/by-source") == ["extract/by-source/kept.json"]


def test_gc_keeps_what_a_run_uses_that_starts_between_plan_and_deletion(store):
    put(store, EXTRACT, [])
    put(store, FILTER, [EXTRACT])
    put(store, OTHER, [])
    roots = Roots(store, Policy())
    collection = plan_deletions(store, roots())
    assert len(collection.snapshots) == 3
    put_run(store, "new", [FILTER], state="running")
    swept = delete_unneeded(collection, Context(store=store, home=store.root), roots)
    assert names(store) == {EXTRACT, FILTER}
    assert set(swept.spared) == {EXTRACT, FILTER}


def test_gc_keeps_a_snapshot_with_a_lease(store):
    put(store, EXTRACT, [], complete=False, work="old")
    collection = plan_deletions(store, {})
    assert [going.name for going in collection.snapshots] == [EXTRACT]
    context = Context(store=store, home=store.root, run_id="maker")
    with hold_lease(Draft(store, *EXTRACT), context):
        swept = delete_unneeded(collection, context, dict)
        assert "run maker" in swept.spared[EXTRACT]
        assert not plan_deletions(store, {}).snapshots
    assert names(store) == {EXTRACT}
    delete_unneeded(collection, context, dict)
    assert names(store) == set()


def test_gc_stops_at_a_damaged_run_record(store):
    store.put("runs/r.json", b"")
    with pytest.raises(ConfigError, match=r"runs/r\.json"):
        Roots(store, Policy())()


@pytest.mark.parametrize("damaged", [SnapshotName("filter", "f"), SnapshotName("register", "r")])
def test_gc_deletes_nothing_where_the_ancestors_of_a_damaged_manifest_are_unknown(store, damaged):
    put(store, EXTRACT, [])
    put(store, damaged, [EXTRACT])
    data = bytearray(store.read(f"{damaged}/manifest.json"))
    data[len(data) // 2] ^= 1
    store.put(f"{damaged}/manifest.json", bytes(data))
    if damaged.stage != "register":  # a model of another registry needs no run here
        put_run(store, "r", [damaged])
    with pytest.raises(CorruptPart, match=f"{damaged}/manifest.json is unreadable, .* nothing is deleted"):
        gc(store, Policy())


def test_gc_keeps_an_old_run_of_another_machine_that_holds_a_lease(store):
    train, pack = SnapshotName("train", "d" * 16), SnapshotName("pack", "e" * 16)
    put(store, pack, [])
    put(store, train, [], complete=False)
    put_run(store, "long", [pack, train], days=90, state="running")
    record = json.loads(store.read("runs/long.json"))
    record["stages"][1]["state"] = "Running"
    store.put("runs/long.json", json.dumps(record).encode())
    assert gc(store, Policy(0)) == set()  # it has no lease
    put(store, pack, [])
    with hold_lease(Draft(store, *train), Context(store=store, home=store.root, run_id="long")):
        assert gc(store, Policy(0)) == {pack, train}


def test_gc_keeps_the_datasets_that_the_config_of_a_kept_run_names(store):
    train, pack, other = (
        SnapshotName(stage, letter * 16) for stage, letter in (("train", "d"), ("pack", "e"), ("pack", "f"))
    )
    for name in (pack, other):
        put(store, name, [])
    put_run(store, "mixed", [pack])
    record = json.loads(store.read("runs/mixed.json"))
    record["config"] = {"train": {"dataset": [{"key": None, "weight": 1}, {"key": other.key, "weight": 1}]}}
    store.put("runs/mixed.json", json.dumps(record).encode())
    assert gc(store, Policy()) == {pack, other}, "before the training has read it"
    record["config"] = {"train": {"dataset": "damaged"}}
    store.put("runs/mixed.json", json.dumps(record).encode())
    put(store, train, [pack, other])
    put_run(store, "trained", [train])
    assert gc(store, Policy()) == {pack, other, train}, "an input of the training"
    store.delete(["runs/trained.json"])
    assert gc(store, Policy()) == {pack}


def test_gc_deletes_job_folders_that_no_unfinished_run_can_resume(store, tmp_path):
    home = tmp_path / "home"
    for job in ("crawl-docs-crawled", "train-unfinished", "train-completed", "train-unknown", "train-today"):
        (home / "jobs" / job / "checkpoints").mkdir(parents=True)
        if job != "train-today":
            age(home / "jobs" / job.removesuffix("/"))
            os.utime(home / "jobs" / job, (NOW - 2 * DAY, NOW - 2 * DAY))
    put_run(store, "a", [SnapshotName("train", "unfinished")], state="failed")
    put_run(store, "b", [SnapshotName("train", "completed")])
    put_run(store, "c", [SnapshotName("extract", "crawled")], state="failed")
    roots = Roots(store, Policy())
    roots()
    unneeded = [path.name for path in _find_local(home, [roots]) if path.parent == home / "jobs"]
    assert unneeded == ["train-completed", "train-unknown"]


def test_gc_keeps_an_object_that_a_deleted_snapshot_shares_with_a_kept_one(store):
    put(store, EXTRACT, [])
    store.copy(
        f"{EXTRACT}/part-00000", f"{OTHER}/part-00000"
    )  # a link, as a later crawl makes of an earlier one's part
    manifest = find_manifest(store, *EXTRACT)
    text = manifest.model_copy(update={"key": OTHER.key}).model_dump_json()
    store.create(f"{OTHER}/manifest.json", text.encode())
    put_run(store, "r", [OTHER])
    assert gc(store, Policy()) == {OTHER}
    assert find_manifest(store, *OTHER) is not None
    assert store.read(f"{OTHER}/part-00000") == str(EXTRACT).encode()
