"""`pairmill queries build`: the list of queries of filter.balance, from files of text, titles and lemmas."""

import bz2
import gzip
import html
import io
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import polars as pl
import pyarrow as pa

from dataops.errors import ConfigError, SourceError
from dataops.query_building import Thresholds, build

logger = logging.getLogger(__name__)

BATCH_CHARS = 16_000_000
"""Characters of text that are counted at a time."""

# What is markup in Wikipedia's pages: comments, references, tables, templates, files and categories, tags.
_MARKUP = [
    (re.compile(r"<!--.*?-->", re.DOTALL), " "),
    (re.compile(r"<ref\b[^>]*/>|<ref\b.*?</ref>", re.DOTALL | re.IGNORECASE), " "),
    (re.compile(r"\{\|.*?\|\}", re.DOTALL), " "),
    (
        re.compile(r"\[\[(?:File|Image|Category|Datei|Bild|Kategorie):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", re.I),
        " ",
    ),
    (re.compile(r"\[\[(?:[^|\]]*\|)?([^\]|]*)\]\]"), r"\1"),
    (re.compile(r"\[https?://\S+ ?([^\]]*)\]"), r"\1"),
    (re.compile(r"<[^>]+>"), " "),
    (re.compile(r"'{2,}|={2,}|__[A-Z]+__"), " "),
]
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")


def build_queries(
    text: Sequence[Path],
    titles: Sequence[Path],
    lemmas: Sequence[Path],
    wordfreq: Sequence[str],
    wordfreq_top: int,
    thresholds: Thresholds,
) -> pl.DataFrame:
    """Read the files and build the list (columns dataops.query_building.QUERIES).

    Args:
        text: lines, or Wikipedia's page dumps in XML; .gz, .bz2, .zst or plain.
        titles: lines `title<TAB>views`, or Wikimedia's page-view lines.
        lemmas: lines, or WordNet's index files.
        wordfreq: languages of which the `wordfreq_top` most frequent words of the package wordfreq are taken as lemmas.

    Raises: ConfigError for a missing file, nothing given or nothing found; SourceError for one that cannot be read.
    """
    if missing := [str(path) for path in [*text, *titles, *lemmas] if not path.is_file()]:
        msg = f"no such file: {', '.join(missing)}"
        raise ConfigError(msg)
    views = [_views(path) for path in titles]
    given = [_lemmas(path) for path in lemmas] + [_wordfreq(language, wordfreq_top) for language in wordfreq]
    found = build(
        lambda: (batch for path in text for batch in _batches(path)),
        pl.concat([pl.DataFrame(schema={"title": pl.String, "count": pl.Int64, "source": pl.String}), *views]),
        pl.concat([pl.DataFrame(schema={"lemma": pl.String, "source": pl.String}), *given]),
        thresholds,
    )
    if not found.height:
        msg = "no query is above the thresholds; give more text, titles or lemmas, or lower them"
        raise ConfigError(msg)
    return found


def _open(path: Path) -> TextIO:
    """Text in any of the ways in which it is compressed, told by the name."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    if path.suffix == ".bz2":
        return bz2.open(path, "rt", encoding="utf-8", errors="replace")
    if path.suffix == ".zst":
        stream: Any = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return io.TextIOWrapper(stream, "utf-8", "replace")
    return path.open(encoding="utf-8", errors="replace")


def _lines(path: Path) -> Iterator[str]:
    try:
        with _open(path) as file:
            yield from file
    except (OSError, EOFError) as error:
        msg = f"cannot read {path}: {error}"
        raise SourceError(msg) from error


def _batches(path: Path) -> Iterator[pl.Series]:
    """The lines of a text in batches; of a page dump, each page's text as one line."""
    held, size = list[str](), 0
    for line in _pages(path) if ".xml" in path.suffixes else _lines(path):
        held.append(line)
        size += len(line)
        if size >= BATCH_CHARS:
            yield pl.Series(held, dtype=pl.String)
            held, size = [], 0
    if held:
        yield pl.Series(held, dtype=pl.String)


def _pages(path: Path) -> Iterator[str]:
    """The text of each page of a dump, without its markup."""
    inside: list[str] | None = None
    for line in _lines(path):
        start = line.find("<text")
        if inside is None and start >= 0:
            line = line[line.find(">", start) + 1 :]
            inside = []
        if inside is not None:
            end = line.find("</text>")
            inside.append(line if end < 0 else line[:end])
            if end >= 0:
                yield plain_text(html.unescape("".join(inside)))
                inside = None


def plain_text(page: str) -> str:
    """The words of a page in Wikipedia's markup, roughly: enough to count them."""
    before = None
    while before != page:  # templates stand within templates
        before, page = page, _TEMPLATE.sub(" ", page)
    for pattern, put in _MARKUP:
        page = pattern.sub(put, page)
    return page


def _views(path: Path) -> pl.DataFrame:
    """Titles with their views: `title<TAB>views`, or `project title views bytes` and `project title id device views x`."""
    views: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        fields = line.rstrip("\n").split("\t") if "\t" in line else line.split()
        title, count = (fields[0], fields[1]) if len(fields) == 2 else ("", "")
        if len(fields) in (4, 6):
            title, count = fields[1], fields[2 if len(fields) == 4 else 4]
        if not title or not count.isdigit():
            if line.strip():
                logger.warning("%s line %d is no title with its views: %.80r", path, number, line)
            continue
        views[title] = views.get(title, 0) + int(count)
    frame = pl.DataFrame(
        {"title": list(views), "count": list(views.values())}, schema={"title": pl.String, "count": pl.Int64}
    )
    return frame.with_columns(source=pl.lit(path.name))


def _lemmas(path: Path) -> pl.DataFrame:
    """Lines; of WordNet's index files (whose licence is indented) the first field."""
    index = path.name.startswith("index.")
    found = [line.split()[0] if index else line.strip() for line in _lines(path) if line.strip() and line[:2] != "  "]
    return pl.DataFrame({"lemma": found}, schema={"lemma": pl.String}).with_columns(source=pl.lit(path.name))


def _wordfreq(language: str, top: int) -> pl.DataFrame:
    try:
        import wordfreq
    except ImportError as error:
        msg = "the package wordfreq is not installed: pip install -e '.[queries]'"
        raise ConfigError(msg) from error
    try:
        words = wordfreq.top_n_list(language, top)
    except LookupError as error:
        msg = f"wordfreq has no language {language!r}: {error}"
        raise ConfigError(msg) from error
    return pl.DataFrame({"lemma": words}).with_columns(source=pl.lit(f"wordfreq {language}"))
