from hashlib import sha256

import pytest

from dataops.snapshot import LOG_RECORDS, LOGGED_AT_ONCE, Draft, Fence, Record, RecordLog, find_manifest
from tests.manifests import build_manifest
from tests.memory_store import Killed, MemoryStore

KEY = "0" * 16


def task(number):
    return f"part-{number:05d}"


def do(draft, log, number, data=b"x"):
    """Do one task as a worker does it, and log it as the run does it."""
    record = draft.finish(Record(task=task(number), parts=[draft.put_bytes(f"{task(number)}.bin", data)]))
    log.add(record)
    return record


def make(store, count):
    draft = Draft(store, "extract", KEY)
    log = RecordLog(draft)
    return [part for number in range(count) for part in do(draft, log, number).parts]


@pytest.mark.parametrize("count", [1_000, 4_000])
def test_requests_of_a_resume_and_of_a_reuse_grow_with_a_five_hundredth_of_the_parts(count):
    store = MemoryStore()
    parts = make(store, count)
    store.requests.clear()
    assert len(Draft(store, "extract", KEY).finished(map(task, range(count)))) == count
    assert store.requests.total() <= count / 500 + 20
    Draft(store, "extract", KEY).commit(build_manifest("extract", parts, key=KEY))
    store.requests.clear()
    found = find_manifest(store, "extract", KEY)
    assert len(found.parts) == count
    assert store.requests.total() <= count / 500 + 20


def test_a_resume_after_a_kill_at_any_write_finds_each_finished_task_and_no_other():
    count = 2 * LOGGED_AT_ONCE + 3
    whole = MemoryStore()
    make(whole, count)
    for writes in range(whole.requests["write"]):
        store = MemoryStore(writes)
        with pytest.raises(Killed):
            make(store, count)
        done = Draft(store, "extract", KEY).finished()
        written = [name for name in whole.objects if name.endswith(".bin") and name in store.objects]
        assert len(written) - 1 <= len(done) <= len(written), f"killed at write {writes}"
        assert all(record.parts[0].sha256 == sha256(b"x").hexdigest() for record in done.values())


def test_the_record_of_a_repeated_task_wins_over_that_in_the_log():
    store = MemoryStore()
    make(store, LOG_RECORDS + LOGGED_AT_ONCE)
    store.delete([f"extract/{KEY}/{task(3)}.bin"])
    draft = Draft(store, "extract", KEY)
    assert task(3) not in draft.finished()
    second = draft.finish(Record(task=task(3), parts=[draft.put_bytes(f"{task(3)}.bin", b"y")]))
    assert draft.finished()[task(3)] == second, "it has as many bytes as the first, and others"
    log = RecordLog(Draft(store, "extract", KEY, None))
    log.add(second)
    log.end()
    assert draft.done(task(3)) == second, "a log of few records is not written"


def test_a_later_generation_wins_over_an_earlier_one():
    store = MemoryStore()
    make(store, LOGGED_AT_ONCE)
    store.put(f"extract/{KEY}/_work/lease-00001.json", b'{"token": "t"}')
    draft = Draft(store, "extract", KEY, Fence(generation=1, token="t"))
    log = RecordLog(draft)
    repeated = [do(draft, log, number, b"y") for number in range(LOGGED_AT_ONCE)]
    assert [draft.done(record.task) for record in repeated] == repeated
    assert not [name for name in store.objects if "_work/part-" in name], "the logs have all records"


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"records": [{}]}', b'{"records": 3}'])
def test_a_damaged_log_repeats_its_tasks(damage):
    store = MemoryStore()
    make(store, LOGGED_AT_ONCE + 1)
    (log,) = (name for name in store.objects if "records-" in name)
    store.objects[log] = damage
    assert list(Draft(store, "extract", KEY).finished()) == [task(LOGGED_AT_ONCE)]
