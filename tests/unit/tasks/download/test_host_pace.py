import threading
import time

import pytest

from tasks.download import host_turns as host_pace
from tasks.download.host_turns import HostPace, PaceLimits
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState, MachinePace
from tests.concurrency import at_once


def test_turns_limit_the_parallel_requests_of_each_host():
    pace, lock, now, most = HostPace(PaceLimits(concurrency=3)), threading.Lock(), {"a": 0, "b": 0}, {"a": 0, "b": 0}
    three = {host: threading.Barrier(3, timeout=60) for host in "ab"}

    def work(number):
        host = "ab"[number % 2]
        with pace.turn(host):
            with lock:
                now[host] += 1
                most[host] = max(most[host], now[host])
            three[host].wait()
            with lock:
                now[host] -= 1

    at_once(24, work)
    assert most == {"a": 3, "b": 3}


@pytest.mark.parametrize("processes", [1, 3])
def test_turns_keep_the_longer_of_both_intervals_for_all_processes(processes):
    pace, starts = HostPace(PaceLimits(interval=0.02), processes=processes), []

    def work(interval):
        with pace.turn("a.test", interval):
            starts.append(time.monotonic())

    for number, interval in ((4, 0.02), (3, 0.04)):
        begun = time.monotonic()
        at_once(number, lambda _, interval=interval: work(interval))
        for turn, start in enumerate(sorted(starts[-number:])):
            assert start - begun >= turn * interval * processes


def test_row_waits_for_its_turn_however_long_that_takes():
    pace, starts = HostPace(PaceLimits(interval=0.3, concurrency=1, max_pause=0.1, patience=0.1)), []

    def work(_):
        with pace.turn("a.test"):
            starts.append(time.monotonic())

    begun = time.monotonic()  # not the first start: a thread may note it late
    at_once(4, work)
    assert starts[-1] - begun >= 0.9, "neither patience nor the longest pause is for our own pace"


def fails(pace, error, seconds):
    with pace.turn("a.test"):
        time.sleep(seconds)
        raise error


def failing(pace, error, seconds=0.0):
    """Return the seconds until it failed."""
    started = time.monotonic()
    with pytest.raises(FetchError, match=error.reason):
        fails(pace, error, seconds)
    return time.monotonic() - started


def test_turns_wait_for_a_short_pause_and_fail_in_a_long_one(monkeypatch):
    monkeypatch.setattr(host_pace.random, "uniform", lambda low, high: low)
    pace = HostPace(PaceLimits(max_pause=0.5))
    started = time.monotonic()  # the pause begins within the next line
    failing(pace, FetchError("http_429", "x", retry_after=0.2))
    with pace.turn("a.test"):
        assert 0.2 <= time.monotonic() - started < 20
    failing(pace, FetchError("http_503", "x", retry_after=20.0))
    started = time.monotonic()
    with pytest.raises(FetchError, match="http_503"), pace.turn("a.test"):
        pytest.fail("it asked for 20 s")
    with pace.turn("b.test"):
        pass
    assert time.monotonic() - started < 20


def test_pauses_without_retry_after_double_until_a_success(monkeypatch):
    monkeypatch.setattr(host_pace.random, "uniform", lambda low, high: low)
    pace = HostPace(PaceLimits(first_pause=0.05))
    begun, waited = time.monotonic(), []
    for _ in range(4):
        failing(pace, FetchError("http_429", "x"))
        waited.append(time.monotonic() - begun)
    assert [wait >= 0.05 * pauses for wait, pauses in zip(waited[1:], [1, 1 + 2, 1 + 2 + 4], strict=True)] == [True] * 3
    with pace.turn("a.test"):
        pass
    pace.limits = PaceLimits(first_pause=2.0)
    failing(pace, FetchError("http_429", "x"))
    assert failing(pace, FetchError("http_404", "x")) < 16  # it begins anew after a success


def test_turns_of_a_dead_host_fail_once_its_patience_is_used():
    pace = HostPace(PaceLimits(concurrency=2, patience=0.25))
    asked = []

    def ask(number):
        with pace.turn("a.test"):
            asked.append(number)
            time.sleep(0.1)
            raise FetchError("timeout", "as every time")

    def ask_in_vain(number):
        with pytest.raises(FetchError, match="as every time"):
            ask(number)

    at_once(30, ask_in_vain)
    assert len(asked) < 15  # two at a time, until it has cost more than 0.25 s
    assert failing(pace, FetchError("timeout", "as every time"), 20) < 20  # it is not asked any more
    with pace.turn("other.test"):
        pass


def test_processes_of_a_machine_share_turns_and_pauses_but_not_what_one_run_gives_up(tmp_path):
    limits = PaceLimits(interval=0.2, max_pause=10)
    state = [HostState(tmp_path) for _ in range(3)]
    paused, beside, other = (
        HostPace(limits, MachinePace(one, run)) for one, run in zip(state, ["a", "a", "b"], strict=True)
    )
    starts, begun = [], time.monotonic()

    def work(number):
        with (paused, beside, other)[number % 3].turn("busy.test"):
            starts.append(time.monotonic() - begun)

    at_once(6, work)
    assert [start >= 0.2 * turn - 0.01 for turn, start in enumerate(sorted(starts))] == [True] * 6
    with pytest.raises(FetchError), paused.turn("a.test"):
        raise FetchError("http_429", "the server's answer", retry_after=60)
    for pace in (beside, other):
        with pytest.raises(FetchError, match="http_429: the server's answer"), pace.turn("a.test"):
            pytest.fail("it was asked")
    with beside.turn("b.test"):
        pass
    started = time.monotonic()
    with pytest.raises(FetchError), paused.turn("c.test"):
        raise FetchError("http_503", "the server's answer", retry_after=0.4)
    with other.turn("c.test"):
        assert time.monotonic() - started > 0.35, "a short one is waited for"
    paused.give_up("d.test", FetchError("host_cpu", "too much"))
    with pytest.raises(FetchError, match="host_cpu"), beside.turn("d.test"):
        pytest.fail("it was asked")
    with other.turn("d.test"):
        pass


def test_pauses_and_files_move_to_another_machine_with_the_hosts(tmp_path):
    here, there = HostState(tmp_path / "here"), HostState(tmp_path / "there")
    MachinePace(here).put_pause("a.test", "http_429", "the server's answer", 60)
    MachinePace(here).put_pause("other.test", "http_429", "the server's answer", 60)
    for number, origin in enumerate(("http://a.test", "http://a.test:81", "http://other.test")):
        values = (f"{origin}/robots.txt", str(number), time.time() + 9)
        here.execute("INSERT INTO files VALUES (?, ?, ?)", *values)
    there.load(here.export({"http://a.test"}))
    moved = MachinePace(there).find_pause("a.test")
    assert 50 < moved[2] <= 60
    assert MachinePace(there).find_pause("other.test") is None
    assert there.execute("SELECT count(*), min(url) FROM files") == (1, "http://a.test/robots.txt")
