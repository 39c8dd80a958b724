import time

import pytest

from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState, MachinePace, OriginFile, OriginFiles
from tests.concurrency import at_once


class Files(OriginFiles):
    """Answers without a network."""

    def __init__(self, folder, status=200, **options):
        super().__init__(client=None, state=HostState(folder), timeout=1.0, **options)
        self.status, self.asked = status, []

    def _request(self, first):
        self.asked.append(first)
        time.sleep(0.02)
        if self.status == 0:
            raise ConnectionRefusedError(111, "Connection refused")
        return OriginFile(first, self.status, "text", time.time())


def test_robots_cache_sends_one_request_for_all_threads_and_processes_of_a_folder(tmp_path):
    everyone, answers = [Files(tmp_path) for _ in range(3)], []

    def work(number):
        files = everyone[number % 3]
        answers.extend(files.get(f"http://{host}.test", "/robots.txt").text for host in "ab")

    at_once(12, work)
    assert answers == ["text"] * 24
    urls = [url for files in everyone for url in files.asked]
    assert sorted(urls) == ["http://a.test/robots.txt", "http://b.test/robots.txt"]


def test_robots_cache_reports_a_failed_request_to_the_host_and_keeps_it_briefly(tmp_path, monkeypatch):
    files, reasons = Files(tmp_path, status=0), []

    class Turn:
        def __enter__(self):
            pass

        def __exit__(self, kind, error, trace):
            reasons.append(error.reason)

    def fails(files):
        with pytest.raises(FetchError, match="connect: Connection refused"):
            files.get("http://a.test", "/robots.txt", Turn)

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(3):
        fails(files)
    fails(other := Files(tmp_path, status=0))
    assert (reasons, len(files.asked), other.asked) == (["connect"], 1, [])
    counts = []
    for seconds in (59, 2, 119, 2):  # a minute, then twice as long
        now += seconds
        fails(files)
        counts.append(len(files.asked))
    assert counts == [1, 2, 2, 3]
    files.status, now = 200, now + 300
    assert files.get("http://a.test", "/robots.txt").status == 200


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), UnicodeError("x"), RecursionError(), KeyError("x"), AttributeError("x"), AssertionError()],
)
def test_robots_cache_keeps_an_unforeseen_error_like_any_failure(tmp_path, error):
    files, asked = Files(tmp_path), []

    def fail(first):
        asked.append(first)
        raise error

    files._request = fail
    for _ in range(3):
        with pytest.raises(FetchError, match=f"^bad_response: {type(error).__name__}$"):
            files.get("http://a.test", "/ai.txt")
    assert len(asked) == 1


def test_what_a_clock_ahead_has_written_does_not_hold_once_it_is_right(tmp_path, monkeypatch):
    right = time.time()
    files, url = Files(tmp_path), "http://a.test/robots.txt"
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: right + 10 * 365 * 86_400)
        files.get("http://a.test", "/robots.txt")
        MachinePace(HostState(tmp_path)).put_pause("a.test", "http_503", "", 60)
        assert files.asked == [url]
    files.get("http://a.test", "/robots.txt")
    assert files.asked == [url, url], "in the same process"
    state = HostState(tmp_path)
    assert MachinePace(state).find_pause("a.test") is None
    assert state.execute("SELECT count(*) FROM files") == (1,)
    MachinePace(state).put_pause("a.test", "http_503", "", 9 * 86_400)
    monkeypatch.setattr(time, "time", lambda: right + 7200)
    assert MachinePace(HostState(tmp_path)).find_pause("a.test") is not None, "the host asked for nine days"
