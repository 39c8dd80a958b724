import os
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone

import pytest

from dataops.errors import ConfigError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from flows.records import RUN_ID, Attempt, RunRecord, StageRun, find_run, is_alive, list_runs, load_run, new_run_id
from tasks.engine.lease import Lease
from training.process import pid_namespace


def record(run_id: str, created_at: str = "2026-01-01T00:00:00+00:00") -> RunRecord:
    return RunRecord(run_id=run_id, name="n", created_at=created_at, config={})


def test_records_are_found_in_the_stores_of_this_machine_and_in_one_that_is_named(tmp_path):
    home, other, third = tmp_path / "home", FolderStore(tmp_path / "other"), FolderStore(tmp_path / "third")
    (home / "runs").mkdir(parents=True)
    (home / "runs" / "a").write_text(other.uri)
    record("a", "2026-01-02").save(other)
    record("b", "2026-01-01").save(third)
    assert [r.run_id for r in list_runs(home)] == ["a"]
    assert [r.run_id for r in list_runs(home, third.uri)] == ["b", "a"]
    assert load_run("a", home)[1].uri == other.uri
    with pytest.raises(ConfigError, match="pairmill runs"):
        load_run("b", home)
    assert load_run("b", home, third.uri)[0].run_id == "b"


def test_a_damaged_record_names_itself(tmp_path):
    store = FolderStore(tmp_path / "store")
    store.put("runs/a.json", b"{}")
    with pytest.raises(ConfigError, match=r"runs/a\.json"):
        load_run("a", tmp_path)


def test_a_run_whose_process_is_gone_has_crashed():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    one = record("a")
    one.begin()
    assert one.attempts[-1].pid == os.getpid()
    assert one.actual_state() == "running"
    one.attempts[-1].pid = process.pid
    assert one.actual_state() == "crashed"
    one.attempts.append(Attempt(started_at="", host="another-machine", pid=process.pid))
    assert one.actual_state() == "running"
    one.end("failed", "why")
    assert (one.actual_state(), one.attempts[-1].error) == ("failed", "why")


def test_a_stage_is_noted_once():
    one = record("a")
    for state in ("Running", "Completed"):
        one.set_stage(StageRun(stage="extract", key="k", state=state))
    one.set_stage(StageRun(stage="filter", key="k", state="Running"))
    assert [(s.stage, s.state) for s in one.stages] == [("extract", "Completed"), ("filter", "Running")]


def test_a_run_of_another_machine_lives_as_long_as_its_lease_does(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.records.STALE_SECONDS", 0.5)
    monkeypatch.setattr("flows.records.POLL_SECONDS", 0.02)
    store = FolderStore(tmp_path)
    one = record("a")
    one.attempts.append(Attempt(started_at="", host="another-machine", pid=1, place="elsewhere", process="p"))
    assert not is_alive(one, store)  # it makes nothing
    one.set_stage(StageRun(stage="train", key="k", state="Running"))
    assert not is_alive(one, store)  # no lease: its machine lost power before it had one
    lease = Lease(
        generation=1,
        token="t",
        run_id="a",
        host="another-machine",
        pid=1,
        place="elsewhere",
        process="p",
        since="",
    )
    name = Draft(store, "train", "k").lease_name(1)
    store.put(name, lease.model_dump_json().encode())
    assert not is_alive(one, store)  # it stands still
    beats = threading.Timer(
        0.1, lambda: store.put(name, lease.model_copy(update={"beat": 1}).model_dump_json().encode())
    )
    beats.start()
    assert is_alive(one, store)
    beats.join()


def test_another_process_of_the_same_pid_is_another(tmp_path):
    one = record("a")
    one.begin()
    assert is_alive(one, FolderStore(tmp_path))
    one.attempts[-1].process = "the one before the reboot"
    assert one.actual_state() == "crashed"
    assert not is_alive(one, FolderStore(tmp_path))


def test_two_processes_at_one_record_keep_each_others_tries(tmp_path):
    store = FolderStore(tmp_path)
    mine = record("a")
    mine.begin("curate", "pack", "first")
    mine.save(store)
    found = find_run("a", tmp_path, store.uri)
    assert found is not None
    theirs = found[0]
    theirs.begin("train", "train", "second")
    theirs.save(store)
    mine.end("completed")
    mine.save(store)
    kept = load_run("a", tmp_path, store.uri)[0]
    assert sorted((a.flow, a.until, a.ended_at is None) for a in kept.attempts) == [
        ("curate", "pack", False),
        ("train", "train", True),
    ]
    assert kept.first_flow == "curate"


def test_run_ids_sort_by_time_and_say_so():
    early = new_run_id("n.1-x", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1))))
    assert early.startswith("n.1-x-20260102T020405-")
    assert RUN_ID.fullmatch(early)
    assert RUN_ID.fullmatch(new_run_id("n"))
    assert not RUN_ID.fullmatch("solid-beagle")


def test_an_unfinished_run_goes_on_to_where_it_was_to_go_and_a_finished_one_to_the_end():
    one = record("a")
    assert one.last_stage is None
    one.begin("curate", "pack")
    assert one.last_stage == "pack"
    one.end("failed", "why")
    assert one.last_stage == "pack"
    one.end("completed")
    assert one.last_stage is None


def test_a_training_on_the_work_pool_is_no_try_of_its_own(tmp_path):
    """The run whose command was killed can be continued while its training goes on, and to where the command was to go."""
    store = FolderStore(tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    here = {"host": "h", "place": pid_namespace()}
    killed = Attempt(started_at="10:00", **here, pid=gone.pid, process="p", until=None)
    child = Attempt(started_at="10:05", **here, pid=os.getpid(), flow="train", until="train", flow_run_id="c")
    record = RunRecord(run_id="r-1", name="r", created_at="", config={}, attempts=[killed, child])
    assert record.own_attempts == [killed]
    assert (record.actual_state(), is_alive(record, store), record.last_stage) == ("crashed", False, None)
    failed = killed.model_copy(update={"ended_at": "10:09"})
    assert record.model_copy(update={"attempts": [failed, child]}).own_attempts == [failed]
    landed = killed.model_copy(update={"ended_at": "10:04", "flow": "curate"})  # which a trigger carries on
    triggered = record.model_copy(update={"attempts": [landed, child]})
    assert triggered.own_attempts == [landed, child]
    assert is_alive(triggered, store)
