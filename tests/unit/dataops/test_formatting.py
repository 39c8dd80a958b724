import ast
import re
from itertools import pairwise
from pathlib import Path

from dataops.formatting import format_counts, format_interval, format_percent, format_share
from dataops.home import CHECKOUT


def test_format_percent_takes_decimals_sign_and_a_word_for_none():
    assert format_percent(0.12345) == "12.35%"
    assert format_percent(0.5, decimals=1, sign="") == "50.0"
    assert format_percent(None) == "-"
    assert format_percent(None, missing="") == ""


def test_format_share_returns_none_for_an_empty_whole():
    assert format_share(1, 8) == "12.5%"
    assert format_share(0, 0) == "none"
    assert format_share(0, 0, missing="-") == "-"


def test_format_interval_formats_both_ends():
    assert format_interval(0.1, 0.25) == "10.00% – 25.00%"
    assert format_interval(0.1, 0.25, sign="", dash=" - ") == "10.00 - 25.00"
    assert format_interval(None, None) == "-"


def test_format_counts_keeps_the_order_and_separates_thousands():
    assert format_counts({"language": 1204, "too_small": 673}.items()) == "language 1,204, too_small 673"
    assert format_counts([]) == ""


NOUNS = re.compile(
    r" (pairs|rows|images|captions|shards|samples|examples|files|objects|queries|sets|tasks|steps|hosts|pages|versions)\b"
)
"""Nouns of messages and reports whose number may be one."""


def find_plurals(path: Path) -> list[str]:
    """Return the f-strings of a module that put a plural after a count with thousands separators."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        for count, after in pairwise(node.values) if isinstance(node, ast.JoinedStr) else ():
            is_count = isinstance(count, ast.FormattedValue) and ast.unparse(count.format_spec or count) == "f','"
            if is_count and isinstance(after, ast.Constant) and NOUNS.match(after.value):
                found.append(f"{path.relative_to(CHECKOUT)}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_message_or_report_puts_a_plural_after_a_count_that_may_be_one():
    modules = [path for package in ("flows", "tasks", "infra") for path in (CHECKOUT / package).rglob("*.py")]
    modules = [path for path in modules if path.parent.name != "demo"]  # the text of its web pages
    assert [plural for path in modules for plural in find_plurals(path)] == []
