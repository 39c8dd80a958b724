"""One run makes a snapshot and the others wait: whatever becomes of the one."""

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from dataops.config import StageConfig
from dataops.errors import ConfigError, LeaseLost, SourceError, StorageError
from dataops.home import CHECKOUT
from dataops.messages.waiting import current_waits
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from tasks.engine import lease
from tasks.engine.context import Context, LeaseTimes
from tasks.engine.lease import Lease, find_holder, hold_lease
from tasks.engine.stage import Stage, StageOutput, discard, make, plan, reuse
from tests.concurrency import at_once

KEY = "0123456789abcdef"


FAST = LeaseTimes(poll=0.02, orphan=0)


@pytest.fixture
def context(tmp_path):
    return Context(
        store=FolderStore(tmp_path / "store"), home=tmp_path / "home", workers=1, run_id="run-a", lease_times=FAST
    )


@pytest.fixture
def draft(context):
    return Draft(context.store, "filter", KEY)


def foreign(generation=1, **changes):
    """Write a lease of a process on another machine."""
    known = {
        "token": "t",
        "run_id": "run-b",
        "host": "far",
        "pid": 1,
        "place": "elsewhere",
        "process": "p",
        "since": "s",
    }
    return Lease.model_validate({"generation": generation, **known, **changes})


def leave(draft, left):
    draft.store.put(draft.lease_name(left.generation), left.model_dump_json().encode())


def test_make_runs_once_when_two_runs_need_the_same_snapshot(context, caplog):
    caplog.set_level(logging.INFO)
    run_ids = []
    messages = []
    both = threading.Barrier(2)

    def slowly(work):
        run_ids.append(str(work.context.run_id))
        deadline = time.monotonic() + 30
        while not messages and time.monotonic() < deadline:  # until the other one is known to wait
            messages.extend(wait.reason for wait in current_waits())
            time.sleep(0.01)
        return StageOutput([work.draft.put_bytes("part-00000", b"x", 1)], Counts(input=1, kept=1))

    planned = plan(Stage("filter", 1, slowly), StageConfig(), 0, [])
    manifests = []

    def run(number):
        both.wait()
        manifests.append(make(planned, replace(context, run_id=f"run-{number}")))

    at_once(2, run)
    assert len(run_ids) == 1
    assert manifests[0] == manifests[1]
    assert f"another process makes filter {planned.key}: run {run_ids[0]}, process {os.getpid()} on " in messages[0]
    assert sum("waiting for run" in record.message for record in caplog.records) == 1
    assert not context.store.names(f"filter/{planned.key}/_work")


@pytest.mark.parametrize("error", [SourceError("the web is away"), KeyboardInterrupt()])
def test_lease_is_released_at_once_when_a_run_fails(context, error):
    def fail(work):
        raise error

    config = StageConfig()
    with pytest.raises(type(error)):
        make(plan(Stage("filter", 1, fail), config, 0, []), context)
    planned = plan(Stage("filter", 1, lambda work: StageOutput([])), config, 0, [])
    assert find_holder(context.store, "filter", planned.key) is None
    started = time.monotonic()
    make(planned, context)
    assert time.monotonic() - started < FAST.stale / 2


def test_lease_is_taken_over_at_once_when_its_release_could_not_be_written(context, draft, monkeypatch):
    def away(name, data):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch, hold_lease(draft, context):  # released while the store is away
        patch.setattr(context.store, "put", away)
    started = time.monotonic()
    with hold_lease(draft, context) as held:
        assert held.lease.generation == 2
    assert time.monotonic() - started < FAST.stale / 2


def test_lease_is_taken_over_at_once_when_its_process_was_killed(context, draft):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom dataops.snapshot import Draft\n"
        "from dataops.store import FolderStore\n"
        "from tasks.engine.lease import hold_lease\nfrom tasks.engine.stage import Context\n"
        "store = FolderStore(Path(sys.argv[1]))\n"
        f"with hold_lease(Draft(store, 'filter', '{KEY}'), Context(store, Path('x'), run_id='killed')):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, draft.store.uri]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        alive = find_holder(draft.store, "filter", KEY)
        assert (alive.run_id, alive.pid) == ("killed", process.pid)
        process.kill()  # and not waited for: a zombie is gone as well
        started = time.monotonic()
        with hold_lease(draft, context) as held:
            assert held.lease.generation == 2
        assert time.monotonic() - started < FAST.stale / 2


def test_lease_of_another_machine_is_respected_while_its_beat_changes(context, draft, monkeypatch):
    context = replace(context, lease_times=LeaseTimes(poll=2.0, stale=3.0, orphan=0))
    leave(draft, foreign())
    now = 0.0

    def sleep(seconds):
        nonlocal now
        now += seconds
        if now <= 40:
            leave(draft, foreign(beat=int(now)))

    monkeypatch.setattr("tasks.engine.lease.time.monotonic", lambda: now)
    monkeypatch.setattr("tasks.engine.lease.time.sleep", sleep)
    with hold_lease(draft, context) as held:
        assert now == 44
        assert held.lease.generation == 2


def test_lease_watch_ignores_time_in_which_the_store_was_unreachable(monkeypatch):
    now = 0.0
    monkeypatch.setattr("tasks.engine.lease.time.monotonic", lambda: now)
    watch = lease._LeaseWatch(1.0)
    stills = []
    for seconds in (0.0, 1.0, 2.0, 1000.0):  # the last look took as long as the server's restart
        now = seconds
        stills.append(watch.seconds_unchanged(foreign()))
    assert stills == [0, 1, 2, 2 + 5]
    assert not watch.changed
    assert watch.seconds_unchanged(foreign(beat=1)) == 0
    assert watch.changed


def _report_for_ever(work):
    while True:
        work.context.progress(1, 2, "a line")
        time.sleep(0.01)


def test_holder_that_lost_its_lease_neither_writes_nor_commits(context, draft):
    context = replace(context, lease_times=replace(FAST, beat=0.02))

    def stall(work):
        part = work.draft.put_bytes("part-00000", b"mine", 1)
        leave(work.draft, foreign(2))
        with pytest.raises(LeaseLost):
            work.draft.put_bytes("part-00000", b"late", 1)
        with pytest.raises(LeaseLost):
            _report_for_ever(work)  # until a beat notices it
        return StageOutput([part], Counts(input=1, kept=1))

    planned = plan(Stage("filter", 1, stall), StageConfig(), 0, [])
    with pytest.raises(LeaseLost, match="another run"):
        make(planned, context)
    mine = Draft(context.store, "filter", planned.key)
    assert not mine.is_complete()
    assert mine.store.read(mine.path("part-00000")) == b"mine"
    found = find_holder(context.store, "filter", planned.key)
    assert found == foreign(2), "the lease of the run that took over was touched"


def test_discard_raises_while_a_run_makes_the_snapshot(context):
    planned = plan(Stage("filter", 1, lambda work: StageOutput([])), StageConfig(), 0, [])
    draft = Draft(context.store, "filter", planned.key)
    with hold_lease(draft, context), pytest.raises(ConfigError, match=r"is being made by run run-a, process \d+ on"):
        discard(planned, context)
    first = make(planned, context)
    with hold_lease(draft, context, remake=True), pytest.raises(ConfigError, match="run-a"):
        discard(planned, context)
    assert reuse(planned, context) == first
    discard(planned, context)
    assert reuse(planned, context) is None
    assert make(planned, context).content_digest == first.content_digest
    assert not context.store.names(draft.path("_work"))


def test_make_remakes_an_invalid_snapshot_once_for_two_runs(context):
    valid, run_ids = threading.Event(), []

    def remake(work):
        run_ids.append(work.context.run_id)
        time.sleep(0.1)
        if len(run_ids) > 1:
            valid.set()
        return StageOutput([])

    stage = Stage("register", 1, remake, still_valid=lambda *_: valid.is_set(), conserves_rows=False)
    planned = plan(stage, StageConfig(), 0, [])
    make(planned, context)
    at_once(3, lambda _: reuse(planned, context) or make(planned, context))
    assert len(run_ids) == 2
