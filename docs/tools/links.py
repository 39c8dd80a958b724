"""Find the links, anchors and repository paths in Markdown pages, and check that they resolve."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from dataops.home import CHECKOUT

ROOT = Path(CHECKOUT)
_TOP_FILES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_FOLDERS = (
    "flows",
    "infra",
    "tasks",
    "training",
    "dataops",
    "plugins",
    "tests",
    "configs",
    "docs",
    "benchmarks",
    ".ci",
)
"""Top-level folders of the repository: a path in backticks that begins with one of them must exist."""
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_LINK = re.compile(r"\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_ATTRIBUTE = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=\"([^\"\s]+)")
_IDENTIFIER = re.compile(r"<[a-z]+\b[^>]*?\b(?:id|name)=\"([^\"]+)\"")
_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, _FOLDERS))})(?:/[A-Za-z0-9_.-]+)+/?")
_NAME = re.compile(rf"(?:{'|'.join(folder for folder in _FOLDERS if folder.isalpha())})(?:\.[A-Za-z_]\w*)+")


class Line(NamedTuple):
    """A line of a page."""

    number: int
    text: str
    is_code: bool
    """True for the lines of a fenced block, and for its fences."""


def pages() -> list[Path]:
    """Return all Markdown pages that are checked."""
    return [*(ROOT / name for name in _TOP_FILES), *sorted((ROOT / "docs").rglob("*.md"))]


def read_lines(text: str) -> Iterator[Line]:
    """Yield the lines of a page, and whether each is part of a fenced block."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line)
        if fence:
            yield Line(number, line, is_code=True)
            if found and found[1].startswith(fence) and not line.strip().strip("`~"):
                fence = ""
        else:
            fence = found[1] if found else ""
            yield Line(number, line, is_code=bool(found))


def prose(text: str) -> str:
    """Return a page with empty lines in place of its fenced blocks."""
    return "\n".join("" if line.is_code else line.text for line in read_lines(text))


def links(text: str) -> list[str]:
    """Return the targets of all links and images of a page, outside of code."""
    bare = _SPAN.sub("``", prose(text))
    return [target for pattern in (_LINK, _DEFINITION, _ATTRIBUTE) for target in pattern.findall(bare)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as a forge makes them, and the ids of HTML elements."""
    found, seen = set(_IDENTIFIER.findall(prose(text))), Counter[str]()
    for line in prose(text).splitlines():
        if heading := re.match(r" {0,3}#{1,6}\s+(.*?)\s*#*$", line):
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def linked_file(page: Path, target: str) -> Path | None:
    """Return the file to which a link leads, or None for a URL or an anchor of the same page."""
    path = target.partition("#")[0]
    if re.match(r"[a-z][a-z0-9+.-]*:", target) or not path:
        return None
    return (page.parent / unquote(path)).resolve()


def broken_links(page: Path) -> list[str]:
    """Return a problem for each relative link of a page that leads nowhere."""
    problems = []
    for target in links(page.read_text(encoding="utf-8")):
        file, anchor = linked_file(page, target), target.partition("#")[2]
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        if file is not None and not (file.is_relative_to(ROOT) and file.exists()):
            problems.append(f"{target}: there is no such file in the repository")
        elif anchor and (file or page).suffix == ".md" and unquote(anchor) not in _anchors_of(file or page):
            problems.append(f"{target}: the page has no such heading")
    return problems


def broken_paths(page: Path) -> list[str]:
    """Return a problem for each path or module in backticks that looks like one of the repository and is not there."""
    spans = [span.strip() for span in _SPAN.findall(prose(page.read_text(encoding="utf-8")))]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()  # made by users: no checkout has them
    paths = [span for span in spans if _PATH.fullmatch(span) and span not in ignored and not (ROOT / span).exists()]
    names = [span for span in spans if _NAME.fullmatch(span) and not _has_name(span)]
    return [f"`{span}`: there is no such path in the repository" for span in paths + names]


def _has_name(dotted: str) -> bool:
    """Return whether a dotted name is a module, or a name that occurs in one."""
    names = dotted.split(".")
    for length in range(len(names), 0, -1):
        path = ROOT.joinpath(*names[:length])
        module = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if path.is_dir() and length == len(names):
            return True
        if module.is_file():
            text = module.read_text(encoding="utf-8")
            return all(re.search(rf"\b{re.escape(name)}\b", text) for name in names[length:])
    return (ROOT / dotted.replace(".", "/", 1)).exists() or (ROOT / names[0] / ".".join(names[1:])).exists()


@cache
def _anchors_of(page: Path) -> set[str]:
    return anchors(page.read_text(encoding="utf-8"))
