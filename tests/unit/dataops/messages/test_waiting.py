from dataops.messages.waiting import Wait, current_waits, format_duration, pause, set_worker_waits, waiting


def test_a_wait_is_registered_while_it_lasts_and_removed_after_an_error():
    seen: list[Wait] = []
    pause(7, "the store does not answer", deadline=1e12, sleep=lambda seconds: seen.extend(current_waits()))
    assert [(wait.reason, round((wait.until or 0) - wait.since)) for wait in seen] == [("the store does not answer", 7)]
    try:
        with waiting("a lease"):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert current_waits() == []


def test_waits_of_workers_are_returned_with_those_of_this_process_the_longest_first():
    set_worker_waits([Wait("in a worker", since=1.0)])
    try:
        with waiting("here", since=2.0):
            assert [wait.reason for wait in current_waits()] == ["in a worker", "here"]
    finally:
        set_worker_waits(())


def test_a_wait_says_what_for_since_when_and_until_when():
    wait = Wait("example.org: the name does not resolve", since=100.0, until=131.0, deadline=160.0)
    assert wait.describe(112.0, others=2) == (
        "waiting for 0:12: example.org: the name does not resolve; next attempt in 0:19; gives up in 0:48 (and 2 more)"
    )
    assert Wait("a lease", since=100.0).describe(3825.0) == "waiting for 1:02:05: a lease"
    assert wait.is_shown(100.1), "it will be long"
    assert not Wait("a lock", since=100.0).is_shown(101.0)
    assert format_duration(59.6) == "1:00"
