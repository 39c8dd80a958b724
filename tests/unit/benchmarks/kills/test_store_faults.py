"""Test that the proxy of benchmarks/chaos.py produces each fault, counts it, and ends with a server that responds."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, repeat
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.kills import store_faults
from benchmarks.kills.store_faults import KINDS, Episode, StoreFaults, draw_episodes

LISTING = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Contents><Key>a/b</Key>'
    b"<LastModified>2026-03-01T00:00:05.000Z</LastModified></Contents></ListBucketResult>"
)


class ListingServer:
    """An HTTP server that returns LISTING, and counts its requests and restarts."""

    def __init__(self) -> None:
        self.requests = self.starts = 0
        self.started = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(LISTING)))
                self.end_headers()
                self.wfile.write(LISTING)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def stop(self, *, at_once: bool = False) -> None:
        assert at_once

    def start(self) -> None:
        self.starts += 1
        self.started.set()


@pytest.fixture
def server() -> Iterator[ListingServer]:
    server = ListingServer()
    yield server
    server.server.shutdown()
    server.server.server_close()


def get(faults: StoreFaults) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(faults.url).netloc, timeout=20)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def begin(monkeypatch: pytest.MonkeyPatch, server: ListingServer, kind: str) -> tuple[StoreFaults, threading.Event]:
    """Return faults of one kind that meet each request, and an event that is set when they begin."""
    began = threading.Event()
    monkeypatch.setattr(store_faults, "draw_episodes", lambda seed: repeat(Episode(0, kind, 60)))
    monkeypatch.setattr(store_faults, "SHARE", 1.0)
    monkeypatch.setattr(store_faults, "SLOW_SECONDS", (0.02, 0.02))
    return StoreFaults(server, 1, lambda line: began.set()), began


def test_draw_episodes_depends_on_the_seed_only_and_mixes_all_kinds():
    episodes = list(islice(draw_episodes(2), 40))
    assert episodes == list(islice(draw_episodes(2), 40)) != list(islice(draw_episodes(3), 40))
    assert all({e.kind for e in episodes[i : i + 4]} == set(KINDS) for i in range(0, 40, 4))
    assert [e.kind for e in episodes[:4]] != [e.kind for e in episodes[4:8]]


def test_busy_server_answers_503_without_doing_the_request(monkeypatch, server):
    faults, began = begin(monkeypatch, server, "busy")
    with faults.proxy():
        assert get(faults) == (200, LISTING)
        with faults.disturb():
            assert began.wait(20)
            while not faults.counts:
                status, body = get(faults)
        assert (status, b"<Code>SlowDown</Code>" in body) == (503, True)
        before = server.requests
        assert get(faults) == (200, LISTING)
    assert (faults.counts, server.requests) == ({"503": 1}, before + 1)


def test_slow_server_answers_late_but_whole(monkeypatch, server):
    faults, began = begin(monkeypatch, server, "slow")
    with faults.proxy(), faults.disturb():
        assert began.wait(20)
        while not faults.counts:
            assert get(faults) == (200, LISTING)
    assert faults.counts == {"slow": 1}


def test_cut_connections_lose_requests_responses_and_halves(monkeypatch, server):
    faults, began = begin(monkeypatch, server, "cut")
    failures = 0
    with faults.proxy(), faults.disturb():
        assert began.wait(20)
        while len(faults.counts) < 3:
            try:
                get(faults)
            except (OSError, http.client.HTTPException):
                failures += 1
    assert set(faults.counts) == {"cut: request", "cut: response", "cut: half a response"}
    assert failures == faults.counts.total()


def test_server_is_running_at_the_end_of_a_restart_that_is_cut_short(monkeypatch, server):
    faults, began = begin(monkeypatch, server, "restart")
    with faults.proxy():
        with faults.disturb():
            assert began.wait(20)
        assert not faults.is_down
        faults.lose_power()
    assert server.starts == 2
    assert faults.counts == {"restart": 1, "power loss": 1}


def test_server_that_does_not_start_again_raises(monkeypatch, server):
    def fail() -> None:
        raise RuntimeError("SeaweedFS does not start")

    faults, began = begin(monkeypatch, server, "restart")
    monkeypatch.setattr(server, "start", fail)
    with faults.proxy(), ExitStack() as disturbed:
        disturbed.enter_context(faults.disturb())
        assert began.wait(20)
        with pytest.raises(RuntimeError, match="does not start"):
            disturbed.close()


def test_aged_listings_are_two_days_older(server):
    faults = StoreFaults(server, 1)
    with faults.proxy(), faults.aged(days=2):
        status, body = get(faults)
    assert (status, body) == (200, LISTING.replace(b"2026-03-01", b"2026-02-27"))
