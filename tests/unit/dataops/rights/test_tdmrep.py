import json
import time

import pytest

from dataops.rights.tdmrep import TdmRule, find_rule, parse_tdmrep


@pytest.mark.parametrize(
    ("location", "path", "matches"),
    [
        ("/", "/a/b.jpg", True),
        ("/a", "/a/b.jpg", True),
        ("/a", "/b/a.jpg", False),
        ("/a/", "/a", False),
        ("*.jpg", "/x/y.jpg", True),
        ("/*.jpg$", "/x/y.jpg", True),
        ("/*.jpg$", "/x/y.jpg?size=2", False),
        ("/*.jpg", "/x/y.jpg?size=2", True),
        ("/exact$", "/exact", True),
        ("/exact$", "/exact/ly", False),
        ("/a/*/c", "/a/b/c/d", True),
        ("/a/*/c", "/a/c", False),
        ("/a*a$", "/a", False),
        ("/fu%24", "/fu$", True),
        ("/b%C3%BCcher", "/bücher", True),
        ("/bücher", "/b%c3%bccher/1.jpg", True),
        ("", "/anything", True),
        ("/A", "/a", False),
    ],
)
def test_find_rule_matches_locations_like_robots_txt(location: str, path: str, matches: bool) -> None:
    assert (find_rule([TdmRule(location, True)], path) is not None) == matches


def test_find_rule_returns_the_first_match() -> None:
    text = json.dumps(
        [
            {"location": "/free/", "tdm-reservation": 0},
            {"location": "/", "tdm-reservation": 1, "tdm-policy": "https://a.test/policy.json"},
            {"location": "/never", "tdm-reservation": 0},
        ]
    )
    rules = parse_tdmrep(text)
    assert [rule.reserved for rule in rules] == [False, True, False]
    free, other = find_rule(rules, "/free/1.jpg"), find_rule(rules, "/never")
    assert free is not None
    assert not free.reserved
    assert other == TdmRule("/", True, "https://a.test/policy.json")


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", []),
        ("<!doctype html><title>Not found</title>", []),
        ("[" * 100_000, []),
        ("{}", []),
        ("[1, null, []]", []),
        ('[{"location": "/"}]', []),
        ('[{"location": "/", "tdm-reservation": 2}]', []),
        ('[{"location": 7, "tdm-reservation": 1}]', []),
        ('[{"location": "/", "tdm-reservation": true}]', []),
        ('[{"location": "/", "tdm-reservation": "1"}]', [TdmRule("/", True)]),
        ('{"location": "/", "tdm-reservation": 1}', [TdmRule("/", True)]),
        ('[{"location": "/", "tdm-reservation": 1, "tdm-policy": 7}]', [TdmRule("/", True)]),
    ],
)
def test_parse_tdmrep_ignores_invalid_rules(text: str, rules: list[TdmRule]) -> None:
    assert parse_tdmrep(text) == rules


def test_find_rule_is_fast_for_any_pattern() -> None:
    rule = TdmRule("/" + "*a" * 5_000 + "b$", True)
    started = time.monotonic()
    assert find_rule([rule], "/" + "a" * 50_000) is None
    assert time.monotonic() - started < 1
