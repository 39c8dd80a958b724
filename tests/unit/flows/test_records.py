import os
import shutil
import subprocess
import sys
import threading

import pytest

from dataops.errors import ConfigError, StorageError
from dataops.process import pid_namespace
from dataops.snapshot import Draft
from dataops.store import FolderStore
from flows.records import (
    Attempt,
    Continuation,
    RunRecord,
    StageRun,
    find_run,
    is_alive,
    known_stores,
    list_runs,
    load_run,
    read_record,
    remember_store,
)
from tasks.engine.context import LeaseTimes
from tasks.engine.lease import Lease
from tests.python_code import run_python


def record(run_id, created_at="2026-01-01T00:00:00+00:00"):
    return RunRecord(run_id=run_id, name="n", created_at=created_at, config={})


def test_list_runs_finds_records_in_the_known_stores_and_in_the_given_one(tmp_path):
    home, other, third = tmp_path / "home", FolderStore(tmp_path / "other"), FolderStore(tmp_path / "third")
    (home / "runs").mkdir(parents=True)
    (home / "runs" / "a").write_text(other.uri)
    record("a", "2026-01-02").save(other)
    record("b", "2026-01-01").save(third)
    assert [r.run_id for r in list_runs(home)] == ["a"]
    assert [r.run_id for r in list_runs(home, third.uri)] == ["b"]
    assert load_run("a", home)[1].uri == other.uri
    with pytest.raises(ConfigError, match="pairmill runs"):
        load_run("b", home)
    assert load_run("b", home, third.uri)[0].run_id == "b"
    remember_store("c", FolderStore(home / "store"), home)
    copy = shutil.copytree(home, tmp_path / "copy")
    assert [store.uri for store in known_stores(copy)] == [str(copy / "store"), other.uri], "not that of the original"


@pytest.mark.parametrize("dead", ["fails", "is silent"])
def test_list_runs_names_a_store_that_does_not_respond_and_lists_the_others(tmp_path, monkeypatch, caplog, dead):
    away, here, ended = FolderStore(tmp_path / "away"), FolderStore(tmp_path / "here"), threading.Event()
    for name, store in (("a", away), ("b", here)):
        record(name).save(store)
        remember_store(name, store, tmp_path)
    names = FolderStore.names

    def names_where_it_answers(self, folder):
        if self.root.name == "away" and dead == "fails":
            raise StorageError(f"cannot list runs in {self.uri}")
        if self.root.name == "away":
            ended.wait(60)
        return names(self, folder)

    monkeypatch.setattr(FolderStore, "names", names_where_it_answers)
    assert [r.run_id for r in list_runs(tmp_path, patience=2)] == ["b"]
    (message,) = caplog.messages
    assert message.startswith(f"the runs of {away.uri} are not listed: ")
    with pytest.raises(StorageError):  # it was asked for
        list_runs(tmp_path, away.uri, 0.3)
    ended.set()


def test_find_run_asks_no_other_store_than_that_of_the_run(tmp_path, monkeypatch):
    store = FolderStore(tmp_path / "store-of-z")
    record("z").save(store)
    remember_store("a", FolderStore(tmp_path / "away"), tmp_path)
    remember_store("z", store, tmp_path)
    find = FolderStore.find

    def find_where_it_answers(self, name):
        if self.root.name == "away":
            raise StorageError("it does not answer")
        return find(self, name)

    monkeypatch.setattr(FolderStore, "find", find_where_it_answers)
    assert load_run("z", tmp_path)[1].uri == store.uri
    with pytest.raises(StorageError, match="does not answer"):  # the run may be there
        load_run("b", tmp_path)


def test_actual_state_is_crashed_when_the_process_has_ended():
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
    two = record("b")
    two.begin()
    two.attempts[-1].process = "the one before the reboot"  # another process has its pid
    assert two.actual_state() == "crashed"


def test_run_is_alive_whose_clock_was_set_back_since_its_last_attempt(tmp_path):
    store = FolderStore(tmp_path)
    record = RunRecord(run_id="a-1", name="a", created_at="2031-01-01T00:00:00+00:00", config={})
    record.begin()
    record.attempts[0] = record.attempts[0].model_copy(
        update={"started_at": "2031-01-01T00:00:00+00:00", "ended_at": "2031-01-02T00:00:00+00:00", "pid": 1 << 30}
    )
    record.begin("curate", "pack")
    record.save(store)
    again = read_record(store, "runs/a-1.json")
    assert (again.actual_state(), again.last_stage, again.attempts[-1].pid) == ("running", "pack", os.getpid())
    again.end("completed")
    again.save(store)
    assert read_record(store, "runs/a-1.json").attempts[-1].ended_at is not None


def test_is_alive_follows_the_lease_of_a_run_on_another_machine(tmp_path, monkeypatch):
    times = LeaseTimes(stale=0.5, poll=0.02)
    store = FolderStore(tmp_path)
    one = record("a")
    one.attempts.append(Attempt(started_at="", host="another-machine", pid=1, place="elsewhere", process="p"))
    assert not is_alive(one, store, times)  # no stage is running
    one.set_stage(StageRun(stage="train", key="k", state="Running"))
    assert not is_alive(one, store, times)  # there is no lease: the machine failed before it took one
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
    assert not is_alive(one, store, times)  # the lease does not change
    beaten = lease.model_copy(update={"beat": 1}).model_dump_json().encode()
    monkeypatch.setattr("flows.records.time.sleep", lambda _: store.put(name, beaten))
    assert is_alive(one, store, LeaseTimes(stale=20, poll=0.02))


def test_save_keeps_the_attempts_of_another_process(tmp_path):
    store = FolderStore(tmp_path)
    mine = record("a")
    mine.begin("curate", "pack", "first")
    mine.save(store)
    found = find_run("a", tmp_path, store.uri)
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


def test_own_attempts_leave_out_a_training_on_the_work_pool(tmp_path):
    """Continue a run to its command's last stage, while the training of the killed command still runs."""
    store = FolderStore(tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    here = {"host": "h", "place": pid_namespace()}
    killed = Attempt(started_at="10:00", **here, pid=ended.pid, process="p", until=None)
    child = Attempt(started_at="10:05", **here, pid=os.getpid(), flow="train", until="train", flow_run_id="c")
    record = RunRecord(run_id="r-1", name="r", created_at="", config={}, attempts=[killed, child])
    assert record.own_attempts == [killed]
    assert (record.actual_state(), is_alive(record, store), record.last_stage) == ("crashed", False, None)
    failed = killed.model_copy(update={"ended_at": "10:09"})
    assert record.model_copy(update={"attempts": [failed, child]}).own_attempts == [failed]
    landed = killed.model_copy(update={"ended_at": "10:04", "flow": "curate"})  # a trigger continues it
    triggered = record.model_copy(update={"attempts": [landed, child]})
    assert triggered.own_attempts == [landed, child]
    assert is_alive(triggered, store)


@pytest.mark.parametrize(
    ("started", "options", "ends"),
    [
        ("download", {}, ("download", ())),
        (None, {}, (None, ())),
        ("download", {"until": "register"}, ("register", ())),
        (
            "pack",
            {"from_stage": "curate", "until": "curate"},
            ("curate", ("curate", "pack", "train", "evaluate", "register")),
        ),
        ("filter", {"from_stage": "evaluate"}, (None, ("evaluate", "register"))),
        ("pack", {"from_stage": "download", "retry": [" timeout", "http_5xx "]}, ("pack", ())),
        (None, {"from_stage": "pack", "until": "filter"}, "comes before"),
        (None, {"from_stage": "curate", "retry": ["timeout"]}, "from download"),
        (None, {"from_stage": "download", "retry": ["no such"]}, "retry: "),
    ],
)
def test_continuation_ends_where_the_run_was_to_end_or_where_its_options_say(started, options, ends):
    one = record("a")
    one.begin("pipeline", started)
    one.end("completed")
    if isinstance(ends, str):
        with pytest.raises(ConfigError, match=ends):
            Continuation.of(one, **options)
    else:
        how = Continuation.of(one, **options)
        assert (how.until, how.remake) == ends
        assert how.retry == (("timeout", "http_5xx") if "retry" in options else ())


CREATE = """
import sys
from pathlib import Path
from flows.config import RunConfig
from flows.records import create_run
config = RunConfig.model_validate({"name": "n", "store": {"uri": sys.argv[1]}, "source": {"kind": "warc", "paths": ["x"]}})
create_run(config, Path(sys.argv[1]), "a", until="pack")
begun = create_run(config, Path(sys.argv[1]), "begun", until="pack")
begun.begin("pipeline", "pack", "flow run")
begun.save(__import__("dataops.store").store.open_store(sys.argv[1]))
"""


def test_run_whose_process_is_killed_before_its_flow_run_begins_is_crashed_and_keeps_its_last_stage(tmp_path):
    run_python(CREATE, tmp_path)
    found = load_run("a", tmp_path, str(tmp_path))[0]
    assert (found.actual_state(), found.last_stage, len(found.attempts)) == ("crashed", "pack", 1)
    begun = load_run("begun", tmp_path, str(tmp_path))[0]
    assert [attempt.flow_run_id for attempt in begun.attempts] == ["flow run"], "both are one attempt"
