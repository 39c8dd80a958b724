from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.rights.directives import parse_robots_tag
from dataops.rights.signals import Agents, find_header_opt_outs
from tasks.download.config import AI_AGENTS
from tests.costs import bounded

DATES = [
    "Wed, 03 Dec 2025 13:09:53 GMT",
    "Wednesday, 03-Dec-25 13:09:53 GMT",
    "Wed Dec  3 13:09:53 2025",
    "03 Dec 2025 13:09:53 PST",
    "2025-12-03T13:09:53+00:00",
    "2025-12-03 13:09:53",
    "Wed, Dec 3, 2025 13:09:53 GMT",
    "Wed, Dec 3 2025 13:09:53",
    "December 3, 2025 13:09:53 GMT",
    '"Wed, 03 Dec 2025 13:09:53 GMT"',
]


def find(*values, name="X-Robots-Tag"):
    message = Message()
    for value in values:
        message[name] = value
    found = find_header_opt_outs(message, Agents("pairmill", AI_AGENTS), "http://a.test/", "now")
    return next((one.detail for one in found if not one.permits), None)


@pytest.mark.parametrize("date", DATES)
def test_parse_robots_tag_reads_directives_around_dates(date):
    assert find(f"unavailable_after: {date}") is None
    assert find(f"unavailable_after: {date}, noai") == "noai"
    assert find(f"unavailable_after:{date},noimageai") == "noimageai"
    assert find(f"noarchive, unavailable_after: {date}, nofollow, NOAI") == "noai"
    assert find(f"googlebot: unavailable_after: {date}, noindex") is None
    assert find(f"googlebot: unavailable_after: {date}, pairmill: noindex") == "noindex"
    assert find(f"noai, unavailable_after: {date}") == "noai"


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        (["GPTBot: noai"], "noai"),
        (["gptbot/1.0: noai"], "noai"),
        (["GPTBot*: noai"], "noai"),
        (["CCBot: noindex"], "noindex"),
        (["Google-Extended: none"], "none"),
        (["googlebot: noindex"], None),
        (["googlebot: noindex", "noai"], "noai"),
        (["googlebot: noindex, GPTBot: noai"], "noai"),
        (["bingbot: noai"], None),
        (["otherbot: nofollow", "otherbot: noindex, nofollow"], None),
        (["*: noai"], "noai"),
        (["none"], "none"),
        (["NoImageAI"], "noimageai"),
        (['"noai, noimageai"'], "noai"),
        (["'noai'"], "noai"),
        (['"noindex", "nofollow"'], "noindex"),
        (["noarchive; noai"], "noai"),
        (["nofollow noai"], "noai"),
        (["noai: 1"], "noai"),
        (["noindex:"], "noindex"),
        (["noai max-image-preview: none"], "noai"),
        (["max-image-preview:none"], None),
        (["max-image-preview: none, max-snippet: 0"], None),
        (["googlebot: max-image-preview: none"], None),
        (["googlebot: max-image-preview: none, pairmill: noai"], "noai"),
        (["max-snippet:-1, max-image-preview:large, max-video-preview:-1, noai"], "noai"),
        (["index, follow"], None),
        (["noaiplease"], None),
        (["\xe9t\xe9, noai"], "noai"),
        (["noai\xa0"], "noai"),
        ([" ,, ,noai,"], "noai"),
        (["noindex\r\n nofollow"], "noindex"),
        (["google bot: noai"], "noai"),  # no name; in doubt it counts
        ([""], None),
    ],
)
def test_find_header_opt_outs_reads_agents_and_spellings(values, directive):
    assert find(*values, name="x-robots-tag") == directive


def test_find_header_opt_outs_counts_ai_agents_only_where_they_are_named():
    message = Message()
    message["X-Robots-Tag"] = "GPTBot: none, noai"
    assert list(find_header_opt_outs(message, Agents("pairmill"), "http://a.test/", "now")) == []
    found = find_header_opt_outs(message, Agents("pairmill", AI_AGENTS), "http://a.test/", "now")
    assert [(one.signal, one.detail) for one in found] == [("noai", "noai"), ("noindex", "none")]


@pytest.mark.parametrize(
    "unit", [",", ":", "a:", "max-", "max-a:", "a", "*", "a/", " ", '"', ";", "max-a \t", "-", "noai "]
)
def test_parse_robots_tag_takes_linear_time(unit):
    with bounded(10):  # about 0.1 s; a quadratic step takes minutes
        list(parse_robots_tag(unit * (200_000 // len(unit)) + "!"))


@given(st.text(max_size=200))
def test_parse_robots_tag_accepts_any_text(value):
    assert all(agent and directive for agent, directive in parse_robots_tag(value))
    assert ("*", "noai") in parse_robots_tag("noai," + value)
