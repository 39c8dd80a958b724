from email.message import Message

import pytest

from dataops.rights.preferences import CONTENT_USAGE
from dataops.rights.refusals import describe_price, offers_in_body
from dataops.rights.robots_txt import MAX_RULES, RobotsFile
from dataops.rights.signals import MAX_DETAIL_CHARS, Agents, Statement, declare

AGENTS = Agents("pairmill", ("GPTBot", "CCBot"))
RSL = "https://a.test/license.xml"


@pytest.mark.parametrize(
    ("statement", "detail"),
    [
        ("train-ai=n", "train-ai=n"),
        ("train-ai=n;reason=x, search=y", "train-ai=n"),
        ("search=yes,ai-train=no", "ai-train=no"),
        ("search=yes, ai-input=yes, ai-train=no, use=reference", "ai-train=no"),
        (" Search=Yes ; AI-Train = No ", "ai-train=no"),
        ("train-ai=y, train-ai=n", "train-ai=n"),  # the most restrictive counts
        ("train-ai=n, train-ai=y", "train-ai=n"),
        ('train-ai="n"', "train-ai=n"),
        ('"ai-train=no"', "ai-train=no"),
        ("train-ai=?0", "train-ai=?0"),
        ("ai-train: no", "ai-train=no"),
        ("bots=n", "bots=n"),
        ("genai=n, search=y", "genai=n"),
        ("bots=n, train-ai=y", None),
        ("train-ai;allow=n, train-ai=y", None),
        ("train-ai=y", None),
        ("ai-train=yes, ai-input=no, search=no", None),
        ("ai-use=n, search=n", None),
        ("train-ai, train-ai=maybe", "train-ai=maybe"),
        ("no-train-ai=n, train-ai-x=n", None),
        ("", None),
    ],
)
def test_find_returns_the_member_that_forbids_training(statement, detail):
    assert find(statement) == detail


def find(text):
    found = declare(CONTENT_USAGE, Statement("header", CONTENT_USAGE.name, text), "", "")
    return next((one.detail for one in found if not one.permits), None)


def found(text, path="/x/1.jpg"):
    file = RobotsFile.parse(text, (AGENTS.own, *AGENTS.others))
    assert file.allows(f"http://a.test{path}", "pairmill")
    return prohibitions(file, f"http://a.test{path}", AGENTS)


def prohibitions(file, url, agents):
    return [(name, one.detail) for name, one in file.find_declarations(url, agents) if not one.permits]


USAGE, SIGNAL = ("content-usage", "train-ai=n"), ("content-signal", "ai-train=no")
FORBID, PERMIT = "Content-Usage: train-ai=n", "Content-Usage: train-ai=y"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["User-agent: *", "Allow: /", FORBID], [USAGE]),
        (["User-agent: *", "Content-Signal: search=yes,ai-train=no", "Allow: /"], [SIGNAL]),
        (["User-agent: *", " content-usage\t:\ttrain-ai=n # no"], [USAGE]),
        (["User-agent: *", "Content-Usage: /x/ train-ai=n", "Content-Signal: ai-train=no"], [USAGE, SIGNAL]),
        (["User-agent: *", FORBID, "Content-Usage: /x/ train-ai=y"], []),  # the longest match counts
        (["User-agent: *", PERMIT, "Content-Usage: /x/ train-ai=n"], [USAGE]),
        (["User-agent: *", PERMIT, "Content-Usage: /y/ train-ai=n"], []),
        (["User-agent: *", FORBID, "Content-Usage: /x/ search=y"], [USAGE]),  # it states nothing on training
        (["User-agent: *", "Content-Usage: /x/ train-ai=y", "Content-Usage: /x/ train-ai=n"], [USAGE]),
        (["User-agent: *", "Content-Usage: *.jpg$ train-ai=n"], [USAGE]),
        (["User-agent: *", "Content-Usage: *.png$ train-ai=n"], []),
        (["User-agent: *", "Content-Usage: /%78/ train-ai=n"], [USAGE]),
        (["User-agent: *", PERMIT, "Content-Signal: ai-train=no"], [SIGNAL]),  # each field is read by itself
        ([FORBID, "User-agent: otherbot", "Disallow: /"], [USAGE]),  # before any group: for all agents
        (["User-agent: otherbot", FORBID], []),
        (["User-agent: GPTBot", FORBID, "User-agent: *", PERMIT], [("content-usage", "train-ai=n for GPTBot")]),
        (["User-agent: pairmill", PERMIT, "User-agent: GPTBot", "User-agent: *", FORBID], []),  # our own group
        (["User-agent: *", "Content-Usage: search=y", "User-agent: otherbot", FORBID], []),
        (["User-agent: *", "User-agent: otherbot", FORBID], [USAGE]),
        (["User-agent: *", "Content Signals ai-train=no"], [SIGNAL]),  # the lenient reading
        (["User-agent: * Content-Signal: ai-train=no Allow: /"], [SIGNAL]),
        ([f"License: {RSL}", "User-agent: Googlebot", "Allow: /"], [("rsl", RSL)]),
        (["User-agent: otherbot", f"license :{RSL}"], [("rsl", RSL)]),
        (["User-agent: *", "License: /license.xml"], [("rsl", "/license.xml")]),
        (["User-agent: *", "License: MIT", "# License: https://a.test/"], []),
        (["<html><p>License terms", "Content usage: see below"], []),
    ],
)
def test_find_declarations_reads_robots_txt(lines, expected):
    assert found("\n".join(lines)) == expected
    assert found("\r\n".join(lines)) == expected


def test_content_lines_change_nothing_that_rfc_9309_decides():
    text = f"User-agent: *\n{PERMIT}\nUser-agent: GPTBot\nDisallow: /"
    assert not RobotsFile.parse(text).allows("http://a.test/", "pairmill")  # for RFC 9309 it is one group


def test_hostile_files_are_read_in_linear_time_and_forbid():
    many = "User-agent: *\n" + "".join(f"Content-Usage: /{i} train-ai=y\n" for i in range(MAX_RULES + 1))
    assert not RobotsFile.parse(many, ("pairmill",)).allows("http://a.test/", "pairmill")
    wild = "User-agent: *\n" + "".join(f"Content-Usage: /*{i}*a train-ai=y\n" for i in range(9_000))
    file = RobotsFile.parse(wild, ("pairmill",))
    assert prohibitions(file, "http://a.test/" + "a" * 4_000, Agents("pairmill")) == [
        ("content-usage", "the file has too many wildcards for this URL")
    ]
    crawlers = [f"bot-{'x' * i}" for i in range(1, 26)]
    lines = "".join(f"Content-Usage: /{i} train-ai=y\n" for i in range(5_000))
    lines += "".join(f"User-agent: {name}\nContent-Usage: train-ai=n\n" for name in crawlers)
    file = RobotsFile.parse(lines, ("pairmill", *crawlers))  # the first lines concern each of the agents
    assert not file.allows("http://a.test/", "pairmill")
    for text in ("train-ai=" * 60_000, "ai " * 170_000, "<" * 500_000, "<a>; rel=" * 60_000, ';rel="' * 80_000):
        find(text)


def test_describe_price_returns_the_offer_as_written():
    headers = Message()
    assert describe_price(headers) == "no price"
    assert not offers_in_body(headers)
    headers["Content-Type"] = "application/json; charset=utf-8"
    assert offers_in_body(headers)
    assert describe_price(headers, b'{"accepts":\r\n [{"maxAmountRequired": "100"}]}\xff') == (
        'body: {"accepts": [{"maxAmountRequired": "100"}]}\ufffd'
    )
    assert len(describe_price(headers, b"x" * 100_000)) == MAX_DETAIL_CHARS
    headers["Payment-Required"] = "eyJ4NDAyVmVyc2lvbiI6Mn0="
    assert describe_price(headers) == "payment-required: eyJ4NDAyVmVyc2lvbiI6Mn0="
    assert not offers_in_body(headers)
    headers["crawler-price"] = "USD 0.01"
    assert describe_price(headers) == "crawler-price: USD 0.01"
    del headers["crawler-price"]
    headers["crawler-price"] = "x" * 5_000
    assert len(describe_price(headers)) == MAX_DETAIL_CHARS
