from collections import Counter
from contextlib import nullcontext

import pytest

from dataops.rights.robots_txt import RobotsFile
from dataops.rights.signals import Agents
from tasks.download.config import AI_AGENTS
from tasks.download.host_rules import HostRules, RuleLimits
from tasks.download.host_turns import HostPace, PaceLimits
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import OriginFile, OriginFiles
from tasks.web.request import split_url

NONE = (404, "")


class Host(OriginFiles):
    """Answers without a network."""

    def __init__(self, robots=NONE, tdmrep=NONE, ai=NONE):
        self.answers = {"/robots.txt": robots, "/.well-known/tdmrep.json": tdmrep, "/ai.txt": ai}
        self.asked = Counter()

    def get(self, origin, path, turn=nullcontext):
        context = turn()
        with context:
            self.asked[path] += 1
            answer = self.answers[path]
            if isinstance(answer, FetchError):
                raise answer
            return OriginFile(origin + path, *answer, fetched_at=0.0)


def rules(host, **limits):
    return HostRules(host, HostPace(PaceLimits()), RuleLimits(Agents("pairmill", AI_AGENTS), **limits))


def checked(host, url="http://a.test/x/1.jpg", **limits):
    return [one for one in rules(host, **limits).check(split_url(url))[1] if not one.permits]


def allow(*lines):
    return 200, "\n".join(lines)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NONE, None),
        ((403, ""), None),
        ((503, ""), "robots"),
        ((429, ""), "robots"),
        (FetchError("dns", "x"), "dns"),
        (FetchError("timeout", "x"), "timeout"),
        (FetchError("private_address", "x"), "private_address"),
        (FetchError("bad_response", "x"), "robots"),
        (allow("User-agent: Pairmill", "Disallow: /x"), "robots"),
        (allow("User-agent: *", "Crawl-delay: 11"), "robots"),
        (allow("User-agent: pairmill", "Crawl-delay: 1", "User-agent: x", "Disallow: /"), "robots"),
    ],
)
def test_check_applies_robots_txt(answer, reason):
    host = Host(answer)
    if reason is None:
        assert checked(host) == []
        return
    with pytest.raises(FetchError) as caught:
        checked(host)
    assert caught.value.reason == reason
    assert host.asked == {"/robots.txt": 1}  # and nothing else of a host that forbids it


def test_check_keeps_unforeseen_errors_of_parsers(monkeypatch):
    """A robots.txt that cannot be parsed allows nothing; tdmrep.json and ai.txt then forbid."""
    parsed = []
    parse = RobotsFile.parse

    def fail(text, agents, host):
        parsed.append(text)
        if "hostile" in text:
            raise RecursionError
        return parse(text, agents, host)

    monkeypatch.setattr(RobotsFile, "parse", fail)
    host = Host(ai=allow("hostile"))
    all_rules = rules(host)
    for _ in range(3):
        [found] = all_rules.check(split_url("http://a.test/1.jpg"))[1]
        assert (found.signal, found.permits) == ("ai-txt", False)
    assert (host.asked["/ai.txt"], parsed.count("hostile")) == (1, 1)
    all_rules = rules(Host(allow("hostile")))
    for _ in range(3):
        with pytest.raises(FetchError, match=r"^robots: robots.txt cannot be read \(RecursionError\)$"):
            all_rules.check(split_url("http://a.test/1.jpg"))
    assert parsed.count("hostile") == 2


@pytest.mark.parametrize(
    ("lines", "agents"),
    [
        (["User-agent: GPTBot", "Disallow: /"], ["GPTBot"]),
        (["User-agent: gptbot # no", "user-agent:CCBot", "Disallow: /x"], ["CCBot", "GPTBot"]),
        (["User-agent: GPTBot", "Disallow: /", "User-agent: pairmill", "Disallow: /y"], []),  # it has spoken to us
        (["User-agent: Google", "Disallow: /"], []),  # is not Google-Extended
    ],
)
def test_check_finds_excluded_ai_agents(lines, agents):
    found = checked(Host(allow(*lines)))
    assert [(one.signal, one.detail, one.where) for one in found] == [
        ("robots-ai-agents", agent, "http://a.test/robots.txt") for agent in agents
    ]
    assert all(one.when == "1970-01-01T00:00:00.000+00:00" for one in found)


def test_check_ignores_unreadable_and_disallowed_files():
    host = Host(tdmrep=FetchError("timeout", "x"), ai=(500, ""))
    assert checked(host) == []
    reserved = (200, '[{"location": "/", "tdm-reservation": 1}]')
    host = Host(allow("User-agent: *", "Disallow: /", "Allow: /x/"), tdmrep=reserved)
    assert checked(host) == []
    assert host.asked == {"/robots.txt": 1}


def test_host_rules_keep_a_bounded_length_of_files():
    host = Host(allow("#" * 3_000))
    limits = RuleLimits(Agents("pairmill", AI_AGENTS))
    all_rules = HostRules(host, HostPace(PaceLimits()), limits, max_chars=10_000)
    for number in range(10):
        all_rules.check(split_url(f"http://h{number}.test/1.jpg"))
    for _ in range(3):
        all_rules.check(split_url("http://h9.test/1.jpg"))
    assert host.asked["/robots.txt"] == 10
    all_rules.check(split_url("http://h0.test/1.jpg"))
    assert host.asked["/robots.txt"] == 11


def test_check_records_only_text_that_can_be_stored():
    policy = "\\ud800" + "p" * 5_000
    lifted = '{"location": "/\\udfff*", "tdm-reservation": 0}'
    file = f'[{lifted}, {{"location": "/", "tdm-reservation": 1, "tdm-policy": "{policy}"}}]'
    [found] = checked(Host(tdmrep=(200, file)))
    assert found.detail.startswith("/, policy ?ppp")
    assert len(found.detail) == 1_000
    assert checked(Host(tdmrep=(200, '[{"location": "/\\ud800", "tdm-reservation": 1}]')), "http://a.test/x") == []
