"""Check the lines and the words of Markdown pages."""

import re
from pathlib import Path

from docs.tools.links import read_lines

MAX_LINE = 100
_UNBREAKABLE = 40
"""Length of a word, such as a URL, for which a line may be longer."""
_WORDS = {
    r"pictures?": "image",
    r"processor's time|processor time": "CPU time",
    r"made (?:again|anew)": "rebuilt",
    r"heed(?:s|ed|ing)?": "obey, respect",
    r"told (?:by|apart|of|how|which|what)": "detected, reported",
    r"innocents?": "false positives",
    r"be had": "available",
    r"owed to": "caused by",
    r"is said|said of|says of": "reported, states",
    r"(?:goes|went) on": "continues, resumes",
    r"is gone|are gone": "deleted, dropped",
    r"speaks? of": "mentions",
    r"by whom|the house": "a plain noun",
}
"""Expressions that the style guide replaces, and what to write."""
_PATTERNS = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): better for words, better in _WORDS.items()}


def long_lines(page: Path) -> list[str]:
    """Return a problem for each line of prose that is too long and can be broken."""
    problems = []
    for line in read_lines(page.read_text(encoding="utf-8")):
        is_free = line.is_code or line.text.lstrip().startswith(("|", "<!--"))
        longest = max(map(len, line.text.split()), default=0)
        if len(line.text) > MAX_LINE and not is_free and longest < _UNBREAKABLE:
            problems.append(f"line {line.number} has {len(line.text)} characters; at most {MAX_LINE} are allowed")
    return problems


def replaced_words(page: Path) -> list[str]:
    """Return a problem for each expression of prose that the style guide replaces."""
    problems = []
    for line in read_lines(page.read_text(encoding="utf-8")):
        text = "" if line.is_code else re.sub(r"`[^`]*`|\]\([^)]*\)|</?\w[^>]*>", "", line.text)
        for pattern, better in _PATTERNS.items():
            problems += [f"line {line.number}: {found!r}: write {better}" for found in pattern.findall(text)]
    return problems
