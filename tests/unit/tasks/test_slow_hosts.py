from collections import Counter
from typing import Any
from urllib.request import OpenerDirector

import pytest

from tasks.fetch import FetchError
from tasks.slow_hosts import STRIKES, HostBreaker


class Web(OpenerDirector):
    """Hosts that answer, time out, refuse, or say 404, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.dead = {"dead.test"}

    def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Any:
        host = fullurl.split("/")[2]
        self.asked[host] += 1
        if host in self.dead:
            raise FetchError("timeout", "not whole after 10 s")
        if host == "poor.test":
            raise FetchError("http_404", "the server's answer")
        return "picture"


def ended(opener: OpenerDirector, url: str) -> str:
    try:
        return opener.open(url)
    except FetchError as error:
        return str(error)


def test_a_host_that_keeps_us_waiting_is_given_up_and_no_other() -> None:
    web = Web()
    breaker = HostBreaker(web)
    found = {f"http://{host}/{n}.jpg": None for n in range(20) for host in ("dead.test", "poor.test", "good.test")}
    said = {url: ended(breaker, url) for url in found}
    assert web.asked == {"dead.test": STRIKES, "poor.test": 20, "good.test": 20}
    assert {said[url] for url in said if "dead" in url} == {"timeout: not whole after 10 s"}, (
        "asked or not, one outcome"
    )
    assert {said[url] for url in said if "good" in url} == {"picture"}


def test_an_answer_clears_a_host() -> None:
    web = Web()
    breaker = HostBreaker(web)
    for n in range(10):  # every other request times out
        web.dead = {"moody.test"} if n % 2 else set()
        ended(breaker, f"http://moody.test/{n}.jpg")
    assert web.asked["moody.test"] == 10


def test_a_timeout_is_not_tried_again_at_once() -> None:
    web = Web()
    breaker = HostBreaker(web)
    for _ in range(3):  # as img2dataset's retries do
        with pytest.raises(FetchError, match="timeout"):
            breaker.open("http://dead.test/1.jpg")
        assert ended(breaker, "http://poor.test/1.jpg").startswith("http_404")
    assert web.asked == {"dead.test": 1, "poor.test": 3}


def test_an_address_that_cannot_be_read_is_the_openers_matter() -> None:
    class Strict(OpenerDirector):
        def open(self, fullurl: Any, data: Any = None, timeout: float | None = None) -> Any:
            raise FetchError("bad_url", "host or port cannot be read")

    assert ended(HostBreaker(Strict()), "http://[::1/x.jpg").startswith("bad_url")
