import ast
import re
from itertools import pairwise
from pathlib import Path

from dataops.home import CHECKOUT

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
