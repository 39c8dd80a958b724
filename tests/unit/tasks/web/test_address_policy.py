import threading
import time

from tasks.web.address_policy import DnsCache
from tests.concurrency import at_once

PUBLIC = [(2, 1, 6, "", ("8.8.8.8", 0))]


def test_dns_cache_resolves_a_name_once_until_its_answer_expires(monkeypatch):
    resolved = []
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(host, *args, **kinds):
        resolved.append(host)
        time.sleep(0.1)
        return list(PUBLIC)

    monkeypatch.setattr("socket.getaddrinfo", slow)
    names, answers = DnsCache(seconds=9), []
    at_once(20, lambda _: answers.append(names.resolve("a.test")))
    assert answers == [[(2, ("8.8.8.8", 0))]] * 20
    assert resolved == ["a.test"]
    names.resolve("b.test")
    names.resolve("b.test")
    now[0] = 10.0
    names.resolve("b.test")
    assert resolved == ["a.test", "b.test", "b.test"]


def test_dns_cache_resolves_other_names_while_one_hangs(monkeypatch):
    release = threading.Event()

    def hangs(host, *args, **kinds):
        if host.startswith("hangs"):
            release.wait(10)
        return list(PUBLIC)

    monkeypatch.setattr("socket.getaddrinfo", hangs)
    names = DnsCache(threads=2)
    started = time.monotonic()
    assert names.resolve("hangs.test", started + 0.1) is None
    assert names.resolve("good.test") == [(2, ("8.8.8.8", 0))]
    assert names.resolve("hangs-too.test", time.monotonic() + 0.1) is None
    assert names.resolve("starved.test", time.monotonic() + 0.1) is None  # both threads hang
    assert time.monotonic() - started < 8, "nothing waits for those that hang"
    release.set()
    assert names.resolve("starved.test") == [(2, ("8.8.8.8", 0))]


def test_dns_cache_limits_the_number_of_names(monkeypatch):
    resolved = []
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *a, **k: resolved.append(host) or list(PUBLIC))
    names = DnsCache(threads=1, most=10)
    for number in [*range(50), 49, 0]:
        assert names.resolve(f"{number}.test") == [(2, ("8.8.8.8", 0))]
    assert resolved == [f"{number}.test" for number in [*range(50), 0]]
