"""What gc keeps and deletes, on stores of made-up snapshots: against a slow, obvious reference, and in races."""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.digest import canonical_json
from dataops.errors import ConfigError
from dataops.snapshot import Draft, Input, Part, Record, SnapshotName, find_manifest
from dataops.stages import STAGES
from dataops.store import FolderStore, Store
from flows.commands.gc import KEEP_RUNS, Policy, Roots, _find_local, parse_age
from flows.records import Attempt, RunRecord, StageRun
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.lineage.garbage_collection import delete_unneeded, plan_deletions
from tasks.lineage.inventory import DAY
from tests.manifests import build_manifest

NOW = time.time()


def put(
    store: Any,
    name: SnapshotName,
    inputs: list[SnapshotName],
    *,
    complete: bool = True,
    work: str | None = None,
    aged: bool = True,
) -> None:
    """A snapshot of one part, two days old; `work`: "new" or "old" scratch objects beside it."""
    store.put(f"{name}/part-00000", str(name).encode())
    if work:
        store.put(f"{name}/_work/part-00000.json", b"{}")
    if complete:
        manifest = build_manifest(
            name.stage,
            [Part(name="part-00000", rows=0, bytes=len(str(name)), sha256="")],
            key=name.key,
            inputs=[Input(stage=i.stage, key=i.key, digest="d") for i in inputs],
            content_digest="d",
        )
        store.create(f"{name}/manifest.json", manifest.model_dump_json().encode())
    if work != "new" and aged:
        age(store.root / str(name))


def age(folder: Path, days: float = 2) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (NOW - days * DAY, NOW - days * DAY))


def put_run(
    store: Store, run_id: str, used: list[SnapshotName], *, days: float = 0, name: str = "n", state: str = "completed"
) -> None:
    stamp = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    RunRecord(
        run_id=run_id,
        name=name,
        created_at=stamp,
        config={},
        state=state,
        attempts=[Attempt(started_at=stamp, host="elsewhere", pid=1)],
        stages=[StageRun(stage=n.stage, key=n.key, state="Completed") for n in used],
    ).save(store)


def names(store: Store) -> set[SnapshotName]:
    found = (entry.name.split("/") for entry in store.entries("") if entry.name.split("/")[0] in STAGES)
    return {SnapshotName(path[0], path[1]) for path in found if path[1] != "by-source"}


def gc(store: FolderStore, policy: Policy, models: Mapping[SnapshotName, str] | None = None) -> set[SnapshotName]:
    """Collect and sweep; what is left."""
    roots = Roots(store, policy)
    roots.models = dict(models or {})
    delete_unneeded(
        plan_deletions(store, roots()), Context(store=store, home=store.root.parent / "home", run_id="gc"), roots
    )
    return names(store)


# Against a slow, obvious reference ------------------------------------------------------------------------------------


@dataclass
class World:
    """A made-up history: what was made of what, and which runs used it."""

    inputs: dict[SnapshotName, list[SnapshotName]] = field(default_factory=dict)
    kinds: dict[SnapshotName, str] = field(default_factory=dict)
    runs: list[tuple[str, float, str, list[SnapshotName]]] = field(default_factory=list)
    models: list[SnapshotName] = field(default_factory=list)
    keep: int = 1


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World(keep=draw(st.integers(0, 2)))
    stages = sorted(draw(st.lists(st.integers(0, len(STAGES) - 1), min_size=4, max_size=10)))
    for number, stage in enumerate([*stages, len(STAGES) - 1]):
        name = SnapshotName(STAGES[stage], f"{number:016x}")
        below = [other for other in world.inputs if STAGES.index(other.stage) < stage]
        world.inputs[name] = (
            draw(st.lists(st.sampled_from(below), unique=True, min_size=1, max_size=3)) if below else []
        )
        world.kinds[name] = draw(
            st.sampled_from(("complete", "complete", "complete", "fresh", "stale", "bare", "swept"))
        )
    everything = st.lists(st.sampled_from(sorted(world.inputs)), unique=True, max_size=4)
    for _ in range(draw(st.integers(1, 5))):
        days = draw(st.sampled_from((1.0, 20.0, 40.0))) + len(world.runs) / 100
        state = draw(st.sampled_from(("completed", "failed")))
        world.runs.append((draw(st.sampled_from(("a", "b"))), days, state, draw(everything)))
    world.models = [name for name in draw(everything) if name.stage == "register"]
    return world


def build(world: World, store: FolderStore) -> None:
    for name, inputs in world.inputs.items():
        kind = world.kinds[name]
        if kind != "swept":  # an earlier gc took it
            work = {"fresh": "new", "stale": "old"}.get(kind)
            put(store, name, inputs, complete=kind == "complete", work=work)
    for number, (name, days, state, used) in enumerate(world.runs):
        put_run(store, f"run-{number}", used, days=days, name=name, state=state)


def reference(world: World) -> set[SnapshotName]:
    """What must be left: by asking of each snapshot, again and again, whether something that stays was made of it."""
    stays = {name for name in world.inputs if world.kinds[name] == "fresh"} | set(world.models)
    for name, days, state, used in world.runs:
        newer = [r for r in world.runs if r[0] == name and r[1] < days]
        if len(newer) < world.keep or (state == "failed" and days < 30):
            stays |= set(used)
    stays = {name for name in stays if world.kinds[name] != "swept"}
    while True:
        makers = [name for name in stays if world.kinds[name] == "complete"]  # only a manifest tells its inputs
        more = {i for name in makers for i in world.inputs[name] if world.kinds[i] != "swept"}
        if more <= stays:
            return stays
        stays |= more


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_what_is_left_is_what_an_obvious_reference_keeps(world):
    with tempfile.TemporaryDirectory() as folder, patch("os.fsync"):  # nobody pulls the plug here
        store = FolderStore(Path(folder) / "store")
        build(world, store)
        before = {name: find_manifest(store, *name) for name in names(store)}
        models = {name: "a version" for name in world.models}
        left = gc(store, Policy(world.keep), models)
        assert left == reference(world)
        for name in left:
            assert find_manifest(store, *name) == before[name]
        assert gc(store, Policy(world.keep), models) == left


# Cases that are worth a name ------------------------------------------------------------------------------------------

EXTRACT, OTHER, FILTER = (
    SnapshotName("extract", "a" * 16),
    SnapshotName("extract", "b" * 16),
    SnapshotName("filter", "c" * 16),
)


@pytest.fixture
def store(tmp_path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def test_of_each_name_the_newest_runs_are_kept_and_unfinished_ones_for_a_month(store):
    for number in range(KEEP_RUNS + 3):
        put_run(store, f"a-{number:02d}", [], days=number)
    put_run(store, "b-old", [], days=400, name="b")
    for days in (1, 29, 31):
        put_run(store, f"a-failed-{days}", [], days=100 if days == 31 else days, state="failed")
    roots = Roots(store, Policy())
    roots()
    gone = set(roots.records) - set(roots.kept)
    assert gone == {"a-09", "a-10", "a-11", "a-12", "a-failed-31"}  # a-failed-1 is one of the ten
    by_age = Roots(store, Policy.from_options(None, "3d"))
    by_age()
    assert set(by_age.kept) == {"a-00", "a-01", "a-02", "a-failed-1"}


def test_a_run_of_this_machine_that_runs_now_is_kept_whatever_its_age(store):
    record = RunRecord(run_id="now", name="n", created_at="2020-01-01T00:00:00+00:00", config={})
    record.begin()
    record.attempts[-1].started_at = record.created_at
    record.save(store)
    put_run(store, "newer", [])
    roots = Roots(store, Policy(0))
    roots()
    assert roots.kept == {"now": "a run that is running"}


def test_old_work_of_a_kept_snapshot_and_half_written_files_go_but_not_today_s(store):
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


def test_extract_forgets_the_files_of_snapshots_that_went(store):
    for key, name in ((EXTRACT.key, "kept"), (OTHER.key, "gone"), ("f" * 16, "never")):
        memory = {"key": key, "record": Record(task="t").model_dump()}
        store.put(f"extract/by-source/{name}.json", canonical_json(memory).encode())
    store.put("extract/by-source/empty.json", b"")
    put(store, EXTRACT, [])
    put(store, OTHER, [])
    put_run(store, "r", [EXTRACT])
    gc(store, Policy())
    assert store.names("extract/by-source") == ["extract/by-source/kept.json"]


def test_a_run_that_begins_between_the_look_and_the_deletion_keeps_what_it_found_and_its_ancestors(store):
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


def test_a_snapshot_that_a_run_makes_is_spared_by_its_lease(store):
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


def test_a_damaged_run_record_stops_gc(store):
    store.put("runs/r.json", b"")
    with pytest.raises(ConfigError, match=r"runs/r\.json"):
        Roots(store, Policy())()


def test_a_damaged_manifest_is_no_ancestor_of_anything_but_stays_with_its_run(store):
    put(store, EXTRACT, [])
    put(store, FILTER, [EXTRACT])
    store.put(f"{FILTER}/manifest.json", b"")
    put_run(store, "r", [EXTRACT, FILTER])
    assert gc(store, Policy()) == {EXTRACT, FILTER}


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43_200), ("30d", 30 * DAY), ("8w", 56 * DAY)])
def test_ages(text, seconds):
    assert parse_age(text) == seconds


def test_a_policy_is_one_of_two():
    assert Policy.from_options(None, None) == Policy(KEEP_RUNS)
    assert Policy.from_options(0, None) == Policy(0)
    for arguments in ((1, "30d"), (-1, None), (None, "30"), (None, "-3d")):
        with pytest.raises(ConfigError, match="--older-than"):
            Policy.from_options(*arguments)


def test_what_a_run_of_another_machine_makes_keeps_the_run_however_long_ago_it_began(store):
    train, pack = SnapshotName("train", "d" * 16), SnapshotName("pack", "e" * 16)
    put(store, pack, [])
    put(store, train, [], complete=False)
    put_run(store, "long", [pack, train], days=90, state="running")
    record = json.loads(store.read("runs/long.json"))
    record["stages"][1]["state"] = "Running"
    store.put("runs/long.json", json.dumps(record).encode())
    assert gc(store, Policy(0)) == set()  # nothing says that it is alive
    put(store, pack, [])
    with hold_lease(Draft(store, *train), Context(store=store, home=store.root, run_id="long")):
        assert gc(store, Policy(0)) == {pack, train}


def test_job_folders_go_but_those_that_an_unfinished_run_can_go_on_with(store, tmp_path):
    home = tmp_path / "home"
    for job in ("train-unfinished", "train-completed", "train-unknown", "train-today"):
        (home / "jobs" / job / "checkpoints").mkdir(parents=True)
        if job != "train-today":
            age(home / "jobs" / job.removesuffix("/"))
            os.utime(home / "jobs" / job, (NOW - 2 * DAY, NOW - 2 * DAY))
    put_run(store, "a", [SnapshotName("train", "unfinished")], state="failed")
    put_run(store, "b", [SnapshotName("train", "completed")])
    roots = Roots(store, Policy())
    roots()
    gone = [path.name for path in _find_local(home, [roots]) if path.parent == home / "jobs"]
    assert gone == ["train-completed", "train-unknown"]


def test_an_object_that_a_kept_snapshot_shares_with_one_that_goes_stays(store):
    put(store, EXTRACT, [])
    store.copy(
        f"{EXTRACT}/part-00000", f"{OTHER}/part-00000"
    )  # a link, as a later crawl makes of an earlier one's part
    manifest = find_manifest(store, *EXTRACT)
    assert manifest is not None
    text = manifest.model_copy(update={"key": OTHER.key}).model_dump_json()
    store.create(f"{OTHER}/manifest.json", text.encode())
    put_run(store, "r", [OTHER])
    assert gc(store, Policy()) == {OTHER}
    assert find_manifest(store, *OTHER) is not None
    assert store.read(f"{OTHER}/part-00000") == str(EXTRACT).encode()
