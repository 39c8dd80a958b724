import json
import time

import pytest

from dataops.rights.robots_txt import decode_file
from dataops.rights.tdmrep import MAX_RULES, TdmRule, TdmRules, parse_tdmrep


def test_find_rule_returns_the_first_match():
    text = json.dumps(
        [
            {"location": "/free/", "tdm-reservation": 0},
            {"location": "/", "tdm-reservation": 1, "tdm-policy": "https://a.test/policy.json"},
            {"location": "/never", "tdm-reservation": 0},
        ]
    )
    rules = parse_tdmrep(text)
    assert [rule.reserved for rule in rules] == [False, True, False]
    free, other = rules.find("/free/1.jpg"), rules.find("/never")
    assert not free.reserved
    assert other == TdmRule("/", True, "https://a.test/policy.json")


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", []),
        ("<!doctype html><title>Not found</title>", []),
        ("[" * 100_000, [TdmRule("/", True)]),
        ("{}", []),
        ('{"error": "not found"}', []),
        ("null", []),
        ("[1, null, []]", []),
        ('[{"location": "/"}]', []),
        ('[{"location": "/", "tdm-reservation": 2}]', [TdmRule("/", True)]),
        ('[{"location": 7, "tdm-reservation": 1}]', [TdmRule("/", True)]),
        ('[{"location": "/", "tdm-reservation": true}]', [TdmRule("/", True)]),
        ('[{"location": "/", "tdm-reservation": "1"}]', [TdmRule("/", True)]),
        ('{"location": "/", "tdm-reservation": 1}', [TdmRule("/", True)]),
        ('[{"location": "/", "tdm-reservation": 1, "tdm-policy": 7}]', [TdmRule("/", True)]),
    ],
)
def test_parse_tdmrep_takes_what_it_does_not_understand_as_a_reservation(text, rules):
    assert parse_tdmrep(text) == rules


ONE = '{"location": "/", "tdm-reservation": 1}'


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff[{ONE}]",
        f"\ufeff{ONE}",
        f"[{ONE},]",
        f"[{ONE}, // comment\n{{}}]",
        f"[{ONE}, {{'location': '/x', 'tdm-reservation': 0}}]",
        f"[{ONE}" + ', {"location": "/x"' * 3,  # cut at the maximum size
        f"<!-- x -->[{ONE}]",
        f"[{ONE[:-1]}, " + '"x": NaN}]',
        f"[{ONE[:-1]}, " + f'"x": {"9" * 100_000}}}]',
        f"[{ONE[:-1]}, " + f'"x": {"[" * 50_000 + "]" * 50_000}}}]',
        f"[{ONE[:-1]}, " + f'"x": {"[" * 50_000 + "]" * 50_000}}}',
        f"[{ONE[:-1]}, " + '"x": "a\nb"}]',
        f"[{ONE[:-1]}, " + '"tdm-reservation": 0}]',
        '[{"location": "/", "tdm-reservation": 0, "tdm-reservation": 1}]',
        '[{"location": "/x", "location": "/", "tdm-reservation": 1}]',
        '[{"location": "/", "tdm-reservation": 1.0}]',
        '[{"location": "/", "tdm-reservation": 1e0}]',
        '[{"location": "/", "tdm-reservation": " 1 "}]',
        '[{"location": "*", "tdm-reservation": 1}]',
        '[{"location": "a/", "tdm-reservation": 1}]',
        '[{"location": "https://a.test/a", "tdm-reservation": 1}]',
        '[{"location": "/%61%2F1.jpg$", "tdm-reservation": 1}]',
        '[{"location": "/\\ud800", "tdm-reservation": 0}, {"location": "/", "tdm-reservation": 1}]',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_find_rule_finds_a_reservation_in_files_of_any_form(text, encoding):
    rule = parse_tdmrep(decode_file(text.encode(encoding))).find("/a/1.jpg")
    assert rule.reserved


@pytest.mark.parametrize(
    ("location", "path", "reserved"),
    [("/a%2Fb", "/a/b", False), ("/a/b", "/a%2Fb", False), ("a", "/a", False), ("/a%2Fb", "/a%2fb", True)],
)
def test_find_rule_lifts_a_reservation_only_without_doubt(location, path, reserved):
    rules = TdmRules([TdmRule(location, False), TdmRule("/", True)])
    found = rules.find(path)
    assert found.reserved != reserved


@pytest.mark.parametrize(
    "unit", ["{", "}", "[", '{"', "{}", '{"tdm-reservation":', "9", "-", "\\u0", ONE, ONE + ",", " "]
)
def test_parse_tdmrep_takes_linear_time_on_any_repetition(unit):
    started = time.process_time()
    for before in ("", "[", '[{"location": '):
        parse_tdmrep(before + unit * (150_000 // len(unit)))
    assert time.process_time() - started < 4  # about 0.15 s; a quadratic step takes over 10 s


def test_find_rule_bounds_the_work_of_one_path():
    text = json.dumps([{"location": f"/*{n}.jpg", "tdm-reservation": n % 2} for n in range(9_900)])
    rules = parse_tdmrep(text)
    assert rules.find("/x/9899.jpg?size=2") == TdmRule("/*9.jpg", True)
    started = time.process_time()
    for _ in range(20):
        assert rules.find("/" + "x" * 60 + ".jpg") is None
        slow = rules.find("/" + "x" * 5_000)  # too much work: reserved without a match
        assert slow.reserved
    assert time.process_time() - started < 10  # about 0.1 s


def test_parse_tdmrep_with_too_many_rules_reserves_the_host():
    rule = {"location": "/x", "tdm-reservation": 0}
    assert len(parse_tdmrep(json.dumps([rule] * MAX_RULES))) == MAX_RULES
    assert parse_tdmrep(json.dumps([rule] * (MAX_RULES + 1))) == [TdmRule("/", True)]
