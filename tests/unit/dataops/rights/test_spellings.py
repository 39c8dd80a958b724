"""Every spelling of a "no" forbids, whatever surrounds it, and plain permissions do not."""

import json
from email.message import Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.rights.robots_txt import RobotsFile
from dataops.rights.signals import Agents, find_header_opt_outs, find_in_metas, read_flag
from dataops.rights.tdmrep import parse_tdmrep
from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs

AGENTS = Agents("pairmill", ("GPTBot",))
WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
NUMBERS = st.integers().map(str) | st.floats().map(str)
QUOTES = st.sampled_from(["", '"', "'", "\u201c", " "])
CASES = st.sampled_from([str.lower, str.upper, str.title])
LABELS = st.sampled_from(["train-ai", "ai-train", "ai_train", "train_ai", "ai-training"])


def headers(*fields):
    message = Message()
    for name, value in fields:
        message[name] = value
    return list(find_header_opt_outs(message, AGENTS, "http://a.test/", "now"))


def robots(text):
    found = RobotsFile.parse(text, host="a.test").find_declarations("http://a.test/x.png", AGENTS)
    return [(name, one.permits) for name, one in found]


def page_opt_out(head):
    html = f'<html><head>{head}</head><img src="/1.png" alt="An image"></html>'.encode()
    return extract_page_pairs(html, "http://a.test/", PageBounds(url=2_000, caption=1_000)).opt_out


@given(LABELS, WORDS | NUMBERS, QUOTES, QUOTES, st.sampled_from(["=", ":", " = ", "= "]), CASES)
def test_any_value_of_a_known_label_but_a_permission_forbids(label, value, around_label, around_value, separator, case):
    member = f"{around_label}{label}{around_label}{separator}{around_value}{value}{around_value}"
    text = f"search=yes, {case(member)}"
    permits = read_flag(value) is True
    for field in ("Content-Usage", "Content_Signal"):
        [found] = headers((field, text))
        assert found.permits == permits, text
        assert find_in_metas([(field.lower().replace("_", "-"), text)]) == (set() if permits else {found.signal})


@pytest.mark.parametrize(
    "value",
    [
        "deny",
        "none",
        "off",
        "0",
        "never",
        "no",
        "N",
        "?0",
        "0.0",
        "disallow",
        "denied",
        "maybe",
        "",
        "no;x=y",
        "null",
        "(no)",
    ],
)
def test_values_that_are_no_permission_forbid(value):
    assert [one.permits for one in headers(("Content-Signal", f"ai-train={value}"))] == [False]
    assert robots(f"User-agent: *\nContent-Signal: ai-train={value}") == [("content-signal", False)]


@pytest.mark.parametrize(
    "value", ["yes", "y", "Yes", '"yes"', "1", "?1", "1.0", "true", "allow", "yes;x=1", "yes, search=no"]
)
def test_permissions_forbid_nothing_and_are_kept(value):
    assert [(one.signal, one.permits) for one in headers(("Content-Signal", f"ai-train={value}"))] == [
        ("content-signal", True)
    ]
    assert robots(f"User-agent: *\nContent-Signal: ai-train={value}") == [("content-signal", True)]
    assert page_opt_out(f"<meta name='content-signal' content='ai-train={value}'>") is None


@given(
    WORDS | NUMBERS | st.sampled_from(["?1", "?0", "1.0", "0"]), QUOTES, st.sampled_from(["", "; policy=x", ";policy"])
)
def test_a_reservation_is_lifted_only_by_its_opposite(value, quote, parameter):
    free = read_flag(value) is False
    for name in ("TDM-Reservation", "tdm_reservation", "TDM-RESERVATION"):
        [found] = headers((name, quote + value + quote + parameter))
        assert (found.signal, found.permits) == ("tdm-reservation", free)


KEYS = st.sampled_from(["tdm-reservation", "TDM-Reservation", "tdm_reservation", "tdmReservation", "tdm reservation"])
VALUES = (
    st.booleans() | st.integers(-2, 3) | st.floats() | WORDS | st.none() | st.sampled_from(["1", "?1", "1.0", "yes"])
)
WRAPPERS = st.sampled_from(
    ["{}", "[{}]", '{{"rules": [{}]}}', '{{"tdmrep": {{"Rules": {}}}}}', "[[{}]]", "[{},]", "\n[{}]\n"]
)


@given(KEYS, VALUES, st.sampled_from(["Location", "location", "LOCATION"]), WRAPPERS, st.booleans())
def test_a_rule_of_any_form_is_read(key, value, location, wrapper, has_location):
    rule = json.dumps({key: value, **({location: "/a"} if has_location else {})})
    rules = parse_tdmrep(wrapper.format(rule), "a.test")
    found = rules.find("/a/1.png")
    assert found.reserved == (read_flag(value) is not False)
    assert (rules.find("/b.png") is None) == has_location


@given(st.integers(1, 200), st.sampled_from(["tdm-reservation", "TDM_Reservation"]))
def test_a_file_that_ends_early_reserves_the_rest(end, key):
    text = json.dumps([{"location": "/a", key: 0}, {"location": "/b", key: 0}, {"location": "/private", key: 1}])
    rule = parse_tdmrep(text[:end]).find("/private/1.png") if end < len(text) else None
    assert rule is None or rule.reserved
    assert rule or end >= len(text) or "{" not in text[:end].lstrip("[")


@pytest.mark.parametrize(
    ("pattern", "forbids"),
    [
        ("https://other.test/", False),
        ("http://other.test:8080/x", False),
        ("https://user@other.test/", False),
        ("https://a.test/", True),
        ("http://WWW.A.test:8080/", True),
        ("https://*/", True),
        ('"/"', True),
        ("/", True),
        ("*", True),
    ],
)
def test_rules_of_another_host_do_not_concern_this_one(pattern, forbids):
    file = RobotsFile.parse(f"User-agent: *\nDisallow: {pattern}", host="a.test")
    assert file.allows("http://a.test/x", "pairmill") != forbids
    rules = parse_tdmrep(json.dumps([{"location": pattern.strip('"'), "tdm-reservation": 1}]), "a.test")
    assert (rules.find("/x") is not None) == forbids


@pytest.mark.parametrize("name", ["*WordPress*", "(none)", "?", "@bot"])
def test_a_user_agent_without_a_name_takes_its_rules_with_it(name):
    file = RobotsFile.parse(f"User-agent: *\nDisallow: /x\nUser-agent: {name}\nDisallow: /")
    assert file.allows("http://a.test/y", "pairmill")
    assert not file.allows("http://a.test/x", "pairmill")


FORBIDS = [
    'User-agent: *\nDisallow: "/"',
    "User-agent: *\nDisallow: '/'",
    "**User-agent:** *\n**Disallow:** /",
    "User-agent: *<br>Disallow: /",
    "User-agent: *<br />\nDisallow: /<br/>",
    "<pre>User-agent: *\nDisallow: /</pre>",
    "<p>User-agent: *</p><p>Disallow: /</p>",
    '"User-agent": "*"\n"Disallow": "/"',
]
"""As editors write it."""
PERMITS = [
    "User-agent: *\nDisallow: /Foo_(bar)\nDisallow: //\nDisallow: /other /more\nDisallow: b.test/",
    "User-agent: allbot\nDisallow: /",
    "User-agent: *\nDisallow: /x.png/, /y",
    "User-agent: *\nAllow: /, /x\nDisallow:",
]
"""They disallow something else."""


@pytest.mark.parametrize("text", FORBIDS + PERMITS)
def test_a_file_in_odd_forms_is_read(text):
    file = RobotsFile.parse(text, ("pairmill",), host="a.test")
    assert file.allows("http://a.test/x.png", "pairmill") == (text in PERMITS)


@pytest.mark.parametrize(
    "label", ["DisallowAITraining", "Disallow-AI-Training", "disallow_ai_training", "DISALLOWAITRAINING"]
)
def test_disallow_ai_training_is_read(label):
    assert robots(f"User-agent: *\nAllow: /\n{label}: /") == [("disallow-ai-training", False)]
    assert robots(f"User-agent: *\n{label}: /y/") == []
    assert robots(f"User-agent: *\n{label}: /\nAllowAITraining: /x") == [("disallow-ai-training", True)]
    assert RobotsFile.parse(f"User-agent: *\n{label}: /").allows("http://a.test/x", "pairmill")


@pytest.mark.parametrize(
    "value",
    ["https://a.test/l.xml", "<https://a.test/l.xml>", '"https://a.test/l.xml"', "/l.xml", "l.xml", "</l.xml>", "../l"],
)
@pytest.mark.parametrize("label", ["License", "license ", "LICENCE", "**License**"])
def test_a_license_of_any_form_counts(label, value):
    assert robots(f"{label}: {value}\nUser-agent: *\nAllow: /") == [("rsl", False)]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ('<meta http-equiv="X-Robots-Tag" content="noai">', "noai"),
        ('<meta http-equiv="tdm-reservation" content="1">', "tdm-reservation"),
        ('<meta http-equiv="TDM_Reservation" content="yes">', "tdm-reservation"),
        ('<meta name="x-robots-tag" content="noml">', "noml"),
        ('<meta name="pairmill" content="noai">', "noai"),
        ('<meta name="img2dataset" content="noimageai, noindex">', "noimageai"),
        ('<meta name="robots" content="no-ai">', "noai"),
        ('<meta name="robots" content="NoML">', "noml"),
        ('<meta property="content_usage" content="train_ai=n">', "content-usage"),
        ('<meta name="robots" content="DisallowAITraining">', "noai"),
        ('<meta http-equiv="content-type" content="text/html; charset=utf-8">', None),
        ('<meta name="robots" content="all"><meta name="keywords" content="noai, art">', None),
        ('<meta name="tdm-reservation" content="0"><meta name="description" content="none of the above">', None),
        ('<meta name="noai">', "noai"),
        ('<meta name="no-ai" content="1">', "noai"),
        ('<meta name="noml" content="true">', "noml"),
        ('<meta name="noai" content="false">', None),
        ('<meta name="disallow-ai-training">', "disallow-ai-training"),
        ('<meta name="tdm:reservation" content="1">', "tdm-reservation"),
        ('<meta name="ai-train" content="no">', "content-signal"),
        ('<meta name="train-ai" content="n">', "content-usage"),
        ('<meta name="robots"><meta name="description">', None),
    ],
)
def test_elements_of_pages_count_by_any_name(head, expected):
    assert page_opt_out(head) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("Content-Usage", text)
            for text in ("train-ai", "train-ai;n", "n", "all=n", "foundation-model-production=n")
        ),
        *(("Content-Signal", text) for text in ("ai-train", "search=yes, no-ai-train", "no", "never")),
        *((name, "no") for name in ("AI-Train", "train_ai", "ai-training", "X-Content-Signal")),
        ("X-Content-Usage", "train-ai=n"),
        ("X-TDM-Reservation", "1"),
        ("TDMReservation", "1"),
        ("DisallowAITraining", "/"),
        *(("X-Robots-Tag", text) for text in ("no ai", "noindex2, ai-train=no", "train-ai=n")),
    ],
)
def test_a_no_at_another_place_or_without_a_value_forbids(name, value):
    assert {one.permits for one in headers((name, value))} == {False}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Content-Usage", text) for text in ("search=y", "search=n", "train-ai=y", "all=y", "")),
        *(("Content-Signal", text) for text in ("ai-input=no, search=yes", "ai-train=yes", "search=no")),
        ("AI-Train", "yes"),
        *(
            ("X-Robots-Tag", text)
            for text in ("all", "index, follow", "max-snippet:-1", "otherbot: noai", "no archive")
        ),
    ],
)
def test_a_yes_or_another_purpose_forbids_nothing(name, value):
    assert [one for one in headers((name, value)) if not one.permits] == []


@pytest.mark.parametrize("agents", ["*, GPTBot", "GPTBot, CCBot, *", "*;", "all", "Any", "`*`"])
@pytest.mark.parametrize(
    "path",
    ["/", "/, /other", "/other /x.png", "/other;/x.png", "[/]", "/;", "\\", "./", "\uff0f", "/\0", "all", "a.test/",
     "//a.test/x", "<http://a.test/>", "`/`"],
)  # fmt: skip
def test_a_disallow_of_any_form_forbids(agents, path):
    text = f"User-agent: {agents}\nDisallow: {path}\n"
    assert not RobotsFile.parse(text, host="a.test").allows("http://a.test/x.png", "pairmill"), text
    assert not RobotsFile.parse(f"Users-agent: *\nDisallow: {path}", host="a.test").allows("http://a.test/x.png", "p")


@pytest.mark.parametrize("line", ["AI-Train: no", "train-ai: n", "TDM-Reservation: 1", "X-Content-Signal: ai-train=no"])
def test_a_no_in_robots_txt_forbids_whatever_its_key(line):
    assert {permits for _, permits in robots(f"User-agent: *\n{line}\nAllow: /\n")} == {False}
