import threading
import time
from collections import Counter

import pytest

from tasks.download.host_turns import CpuBudget, HostPace, HostPool, PaceLimits, parse_host
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState, MachinePace


def test_pool_limits_the_threads_of_a_slow_host():
    """8 threads, of which the 20 rows of one host that does not answer would hold all."""
    hung, running, most = threading.Event(), Counter(), Counter()
    rows = [(n, f"http://{'slow' if n < 20 else f'h{n % 7}'}.test/{n}.jpg") for n in range(90)]
    lock = threading.Lock()

    def fetch(row):
        host = parse_host(row[1])
        with lock:
            running[host] += 1
            most[host] = max(most[host], running[host])
        if host == "slow.test":
            assert hung.wait(20)
        else:
            time.sleep(0.001)
        with lock:
            running[host] -= 1
        return row

    got = []
    with HostPool(8, HostPace(PaceLimits(concurrency=2))) as pool:
        for row in pool.imap_unordered(fetch, iter(rows)):
            got.append(row)
            if len(got) == 70:  # all the others
                assert all("slow" not in url for _, url in got)
                hung.set()
    assert sorted(got) == rows
    assert most["slow.test"] == 2
    assert max(most.values()) == 2


def test_hosts_that_are_asked_rarely_hold_no_thread_while_they_wait():
    """20 hosts with an interval of a second, by 4 threads: each is asked at its own pace."""
    pace = HostPace(PaceLimits(concurrency=4))
    rows = [(n, f"http://h{n % 20}.test/{n}") for n in range(60)]
    starts = {}

    def fetch(row):
        host = parse_host(row[1])
        with pace.turn(host, 1.0):
            starts.setdefault(host, []).append(time.monotonic())
        return row

    started = time.monotonic()
    assert sorted(HostPool(4, pace).imap_unordered(fetch, rows)) == rows
    assert 2 <= time.monotonic() - started < 20, "one host after the other would take 40 s"
    assert all(start - started >= turn for times in starts.values() for turn, start in enumerate(times))


def test_host_whose_images_cost_too_much_cpu_time_is_given_up_in_all_processes(tmp_path):
    pace = HostPace(PaceLimits(concurrency=1), MachinePace(HostState(tmp_path)))
    pool = HostPool(1, pace)
    budget = CpuBudget(pool, seconds=10)
    rows = [(number, f"http://{host}.test:80/{number}.webp") for number in range(9) for host in ("bad", "good")]
    refused = Counter()
    for _, url in pool.imap_unordered(lambda row: row, rows):
        host = parse_host(url)
        if refusal := budget.refusal():
            assert refusal.startswith("host_cpu: ")
            refused[host] += 1
        else:
            budget.charge(*((2.2, 2500) if "bad" in host else (3.0, 8_000_000)))
    assert refused == {"bad.test": 4}, "a large image may take long"
    for other in (pace, HostPace(PaceLimits(), MachinePace(HostState(tmp_path)))):
        with pytest.raises(FetchError, match="host_cpu: images of this host took over 10 s"), other.turn("bad.test"):
            pass
        with other.turn("good.test"):
            pass
