"""Reuse, resume, force and the conservation of rows, on a stage that is only arithmetic."""

import os
import pickle
import random
import subprocess
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from dataops.errors import ContractError, JobFailed, SourceError, StorageError
from dataops.schema import uid
from dataops.snapshot import Counts, Draft, Record
from dataops.store import FolderStore
from tasks.engine.context import Context, TaskLimits
from tasks.engine.map_parts import TaskOrder, shared_workers
from tasks.engine.stage import Stage, StageOutput, discard, make, plan, reuse
from tests.inline_executor import InlineExecutor, inline_context
from tests.simulated_cluster import Faults, SimulatedCluster, make_at_any_price
from tests.unit.tasks.engine.squares import SQUARES, SquareConfig, done, make_squares


@pytest.fixture
def context(tmp_path):
    return Context(store=FolderStore(tmp_path / "store"), home=tmp_path / "home", workers=2, pool=InlineExecutor())


@pytest.fixture
def with_workers(context):
    return replace(context, pool=None)


def test_a_context_without_progress_can_be_sent_to_another_process(context):
    """As one of a run must be, for a training in a job of a cluster: its functions belong to the run."""
    of_a_run = replace(context, pool=None, progress=lambda *_: None, stopped=lambda _: None)
    assert pickle.loads(pickle.dumps(of_a_run.without_progress())).home == context.home


def test_a_newer_version_of_a_stage_uses_the_snapshots_of_those_that_it_accepts(context, tmp_path):
    config = SquareConfig(log=str(tmp_path / "log"))
    old = make(plan(SQUARES, config, 0, []), context)
    newer = replace(SQUARES, version=SQUARES.version + 2, accepts=frozenset({SQUARES.version, SQUARES.version + 1}))
    planned = plan(newer, config, 0, [], context.store)
    assert reuse(planned, context) == old
    other = plan(newer, config, 1, [], context.store)  # there is none of the old version
    assert reuse(other, context) is None
    assert make(other, context).stage_version == newer.version
    forced = plan(newer, config, 0, [], context.store, accept=False)
    assert forced.key not in (planned.key, other.key)
    today = make(forced, context)
    assert plan(newer, config, 0, [], context.store).key == today.key
    refused = plan(replace(newer, accepts=frozenset()), config, 2, [], context.store)
    assert reuse(refused, context) is None


def test_a_damaged_snapshot_of_an_older_version_is_not_accepted(context, tmp_path):
    config = SquareConfig(log=str(tmp_path / "log"))
    old = make(plan(SQUARES, config, 0, []), context)
    newer = replace(SQUARES, version=SQUARES.version + 1, accepts=frozenset({SQUARES.version}))
    context.store.delete([old.path(old.parts[0].name)])
    planned = plan(newer, config, 0, [], context.store)
    assert planned.key != old.key
    assert make(planned, context).stage_version == newer.version


def test_a_worker_that_dies_costs_its_own_task_only(with_workers, tmp_path):
    """The task runs again alone; one whose worker dies then, too, is named once all others are finished."""
    context, log, times = with_workers, tmp_path / "log", Path(f"{tmp_path / 'log'}.die")
    config = SquareConfig(log=str(log), count=9)
    planned = plan(SQUARES, config.model_copy(update={"log": str(tmp_path / "other")}), 0, [])
    undisturbed = make(planned, replace(context, pool=InlineExecutor())).content_digest
    discard(planned, context)
    planned = plan(SQUARES, config, 0, [])
    with shared_workers(context) as shared:  # so that only what died starts anew
        for how in "xm":  # killed, or out of memory
            log.write_text("")
            times.write_text(how)
            assert make(planned, shared).content_digest == undisturbed
            assert done(log) == [0, 1, 2, 2, *range(3, 9)]
            assert log.read_text().split()[-1] == "2", "the second attempt came last"
            discard(planned, context)
        times.write_text("xxx")
        with pytest.raises(
            JobFailed, match=r"two attempts of 1 of 9 tasks failed.*: part-00002: a worker process died"
        ) as caught:
            make(planned, shared)
        assert caught.value.exit_code == 75
        assert caught.value.retryable
        finished = [n for n in range(9) if Draft(context.store, "filter", planned.key).done(f"part-{n:05d}")]
        assert finished == [0, 1, *range(3, 9)]
        assert make(planned, shared).content_digest == undisturbed
    assert done(log).count(2) == 2 + 4
    assert all(done(log).count(n) == 2 for n in finished)


def test_a_task_that_is_slower_than_its_like_gets_a_second_copy_and_the_first_one_that_finishes_counts(
    with_workers, tmp_path
):
    """One of nine tasks hangs; once it is made a second time, the hanging one is ended."""
    log, times = tmp_path / "log", Path(f"{tmp_path / 'log'}.die")
    config = SquareConfig(log=str(log), count=9)
    times.write_text("-")
    quick = replace(with_workers, task_limits=TaskLimits(least=1.0))
    manifest = make(plan(SQUARES, config, 0, []), quick)
    assert done(log) == [0, 1, 2, 2, *range(3, 9)]
    assert manifest.counts == Counts(input=9, kept=9)


def minute(task):
    return random.Random(task).uniform(40, 90)


def test_twenty_workers_that_die_join_and_slow_down_make_the_digest_of_one():
    planned = plan(SQUARES, SquareConfig(log=os.devnull, count=120), 0, [])
    calm = SimulatedCluster(Faults(1, deaths_per_minute=0, slow_per_minute=0, hungry=0, hung=0), minute)
    faults = Faults(20, 0.03, slow_per_minute=0.01, hungry=0.02, hung=0.02, head_lost=(150.0,), outages=((60.0, 90.0),))
    cluster = SimulatedCluster(faults, minute)
    made = make_at_any_price(planned, cluster, TaskLimits(), (5.0, 30.0))
    assert made.content_digest == make_at_any_price(planned, calm, TaskLimits(), ()).content_digest
    assert {span.how for span in cluster.spans} == {
        "finished", "machine lost", "out of memory", "stopped", "head lost",
    }  # fmt: skip
    finished = Counter(span.task for span in cluster.spans if span.how == "finished")
    assert finished == dict.fromkeys((f"part-{n:05d}" for n in range(120)), 1), "no finished task is repeated"
    assert not [name for name in cluster.store.objects if "_work" in name], "a loser leaves nothing behind"


def test_tasks_that_always_hang_or_die_are_named_when_all_others_are_finished():
    planned = plan(SQUARES, SquareConfig(log=os.devnull, count=30), 0, [])
    doomed = {"part-00002": "hangs", "part-00005": "dies"}
    cluster = SimulatedCluster(Faults(5, doomed=doomed), minute)
    with pytest.raises(
        JobFailed, match=r"2 of 30 tasks.*: part-00005: a worker process died .*; part-00002: .*task_timeout \(300 s\)"
    ) as caught:
        make_at_any_price(planned, cluster, TaskLimits(timeout=300), ())
    assert caught.value.exit_code == 75
    attempts = Counter(span.task for span in cluster.spans)
    assert attempts == dict.fromkeys((f"part-{n:05d}" for n in range(30)), 1) | dict.fromkeys(doomed, 2)
    alone = [span for span in cluster.spans if span.task in doomed][-2:]
    others = [span for span in cluster.spans if span.task not in doomed]
    assert min(span.began for span in alone) >= max(span.ended for span in others)


def test_a_task_that_was_out_of_memory_runs_again_with_more_where_the_pool_can_request_it():
    planned = plan(SQUARES, SquareConfig(log=os.devnull, count=5), 0, [])
    cluster = SimulatedCluster(Faults(2, doomed={"part-00003": "needs more memory"}), minute)
    assert make_at_any_price(planned, cluster, TaskLimits(), ()).counts.kept == 5
    assert [span.how for span in cluster.spans if span.task == "part-00003"] == ["out of memory", "finished"]


def test_a_chain_goes_on_when_workers_die_in_its_midst_and_never_has_two_tasks_at_a_time():
    """Four chains, as a download asks four hosts: one task of a chain at a time."""
    order = TaskOrder(lambda task: f"host {int(task.id[-5:]) % 4}", ahead=1, copies=False)
    planned = plan(
        Stage("filter", 1, partial(make_squares, order=order)), SquareConfig(log=os.devnull, count=80), 0, []
    )
    faults = Faults(20, 0.1, slow_per_minute=0.01, hungry=0.2, hung=0)
    cluster = SimulatedCluster(faults, minute)
    assert make_at_any_price(planned, cluster, TaskLimits(), ()).counts.kept == 80
    assert {span.how for span in cluster.spans} == {"finished", "machine lost", "out of memory"}
    for chain in range(4):
        spans = sorted(
            (span for span in cluster.spans if int(span.task[-5:]) % 4 == chain), key=lambda span: span.began
        )
        assert all(one.ended <= following.began for one, following in pairwise(spans))


def test_map_parts_tries_a_retryable_part_three_times(context, tmp_path):
    context = replace(context, task_limits=TaskLimits(pause=0))
    log = tmp_path / "log"
    Path(f"{log}.fail").touch()
    planned = plan(SQUARES, SquareConfig(log=str(log)), 0, [])
    with pytest.raises(SourceError, match="three failed"):
        make(planned, context)
    assert done(log).count(3) == 3


@pytest.mark.parametrize("counts", [Counts(input=2, kept=1), Counts(input=1, kept=1, dropped={"x": 1})])
def test_make_raises_when_rows_are_lost_or_doubled(context, counts):
    stage = Stage("filter", 1, lambda work: StageOutput([], counts))
    with pytest.raises(ContractError, match="input rows"):
        make(plan(stage, SquareConfig(), 0, []), context)


def test_make_raises_when_uids_are_swapped_and_counts_agree(context, tmp_path):
    upstream = make(plan(SQUARES, SquareConfig(log=str(tmp_path / "log"), count=1), 0, []), context)

    def swap(work):
        part = work.draft.put_table("part-00000.parquet", pa.table({"uid": [uid("another", "row")]}))
        return StageOutput([part], Counts(input=1, kept=1))

    with pytest.raises(ContractError, match="uids"):
        make(plan(Stage("curate", 1, swap), SquareConfig(), 0, [upstream]), context)


def test_an_attempt_reads_what_a_takedown_has_rewritten_since_the_one_before(context, tmp_path):
    upstream = make(plan(SQUARES, SquareConfig(log=str(tmp_path / "log")), 0, []), context)
    planned = plan(
        Stage("curate", 1, lambda work: StageOutput([], work.inputs["filter"].counts)), SquareConfig(), 0, [upstream]
    )
    after = upstream.model_copy(update={"parts": [], "counts": Counts(input=4, kept=3, dropped={"takedown": 1})})
    Draft(context.store, upstream.stage, upstream.key).replace(after)
    assert make(planned, context).counts == after.counts


def test_make_repeats_only_missing_parts_after_a_full_disk(tmp_path):
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        context = inline_context(FolderStore(disk / "store"), tmp_path / "home")
        planned = plan(BALLAST, SquareConfig(log=str(log), count=4), 0, [])
        (disk / "ballast").write_bytes(bytes(600 << 10))
        with pytest.raises(StorageError, match=r"Free some space on the disk of .*then rerun") as caught:
            make(planned, context)
        assert caught.value.exit_code == 75
        left = [path.name for path in disk.rglob("*") if path.is_file()]
        assert [name for name in left if name.startswith(".tmp-")] == []
        assert "part-00000.bin" in left
        assert "part-00003.bin" not in left
        before = done(log)
        assert before.count(2) == 1, "a full disk is not tried again at once"
        (disk / "ballast").unlink()
        manifest = make(planned, context)
        assert [part.name for part in manifest.parts] == [f"part-{n:05d}.bin" for n in range(4)]
        assert done(log).count(0) == before.count(0) == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def heavy(draft, task):
    with Path(task.log).open("a") as log:
        log.write(f"{task.value}\n")
    part = draft.put_bytes(f"part-{task.value:05d}.bin", bytes(160 << 10), 1)
    return Record(task=task.id, parts=[part], counts=Counts(input=1, kept=1))


BALLAST = Stage("filter", 1, partial(make_squares, make_one=heavy))
