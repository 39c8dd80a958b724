"""Counts words on all cores, in Wikipedia's page dumps or in lines of any text."""

import bz2
import codecs
import gzip
import html
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import polars as pl
import pyarrow as pa

from dataops.ahead import take_results
from dataops.errors import UnusableSource, explain_unreadable
from dataops.regular_files import open_regular
from plugins.queries.building import BIGRAMS, UNIGRAMS, count_bigrams, count_unigrams, sum_counts
from tasks.engine.context import worker_pool

BATCH_CHARS = 16_000_000
"""Characters of a batch, which one process counts at a time."""

# Markup of Wikipedia's pages, with its replacement: comments, references, tables, files and categories, links, tags.
# What is not closed ends with the page, or at the next opening: so each expression takes linear time.
_MARKUP = [
    (re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL), " "),
    (re.compile(r"<ref\b[^<>]*/>|<ref\b.*?(?:</ref>|\Z)", re.DOTALL | re.IGNORECASE), " "),
    (re.compile(r"\{\|.*?(?:\|\}|\Z)", re.DOTALL), " "),
    (
        re.compile(r"\[\[(?:File|Image|Category|Datei|Bild|Kategorie):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", re.I),
        " ",
    ),
    (re.compile(r"\[\[(?:[^|\[\]]*\|)?([^\[\]|]*)\]\]"), r"\1"),
    (re.compile(r"\[https?://[^\s\[\]]++ ?([^\[\]]*)\]"), r"\1"),
    (re.compile(r"<[^<>]+>"), " "),
    (re.compile(r"'{2,}|={2,}|__[A-Z]+__"), " "),
]
_BRACES = re.compile(r"(\{\{|\}\})")

Batch = tuple[list[str], bool]
"""Texts, and whether they are articles in Wikipedia's markup."""


def count_corpus_unigrams(paths: Sequence[Path], workers: int, batch_chars: int = BATCH_CHARS) -> pl.DataFrame:
    """Count how often each word occurs in the files (columns word, count)."""
    return sum_counts(_count_batches(count_unigrams, paths, workers, batch_chars), UNIGRAMS)


def count_corpus_bigrams(
    paths: Sequence[Path], vocabulary: pl.Series, workers: int, batch_chars: int = BATCH_CHARS
) -> pl.DataFrame:
    """Count how often two words of the vocabulary follow one another (columns first, second: rows of it; count)."""
    return sum_counts(_count_batches(partial(count_bigrams, vocabulary), paths, workers, batch_chars), BIGRAMS)


def _count_batches(
    count: Callable[[pl.Series], pl.DataFrame], paths: Sequence[Path], workers: int, batch_chars: int
) -> Iterator[pl.DataFrame]:
    """Yield the counts of each batch: this process reads and decompresses, the workers strip markup and count."""
    batches = (batch for path in paths for batch in _read_batches(path, batch_chars))
    first = list(islice(batches, 2))
    if len(first) < 2 or workers < 2:  # a worker takes longer to start than to count
        yield from (_count_batch(count, batch) for batch in chain(first, batches))
        return
    with worker_pool(workers) as pool:
        counts = (pool.submit(_count_batch, count, batch) for batch in chain(first, batches))
        yield from take_results(counts, workers, pool)


def _count_batch(count: Callable[[pl.Series], pl.DataFrame], batch: Batch) -> pl.DataFrame:
    texts, pages = batch
    return count(pl.Series([strip_markup(text) for text in texts] if pages else texts, dtype=pl.String))


def _read_batches(path: Path, batch_chars: int) -> Iterator[Batch]:
    """Yield the lines of a text in batches; in a page dump, each article is one line."""
    is_dump = ".xml" in path.name  # also enwiki-20261101-pages-articles1.xml-p1p41242.bz2
    batch, size = list[str](), 0
    for line in _read_articles(path) if is_dump else _read_text(path):
        batch.append(line)
        size += len(line)
        if size >= batch_chars:
            yield batch, is_dump
            batch, size = [], 0
    if batch:
        yield batch, is_dump


def _read_text(path: Path) -> Iterator[str]:
    """Return the lines of a text without the tags that WikiExtractor writes around each article."""
    return (line for line in read_lines(path) if not line.startswith(("<doc ", "</doc>")))


def _read_articles(path: Path) -> Iterator[str]:
    """Yield the text of each article of a dump, in its markup, without talk pages, templates and redirects."""
    text: list[str] | None = None  # lines of the article that is being read
    is_article = True
    for line in read_lines(path, "replace"):
        if text is None:
            if "<page>" in line:
                is_article = True
            if "<redirect " in line or ("<ns>" in line and "<ns>0</ns>" not in line):
                is_article = False
            start = line.find("<text")
            if start < 0 or not is_article:
                continue
            tag, _, line = line[start:].partition(">")
            if tag.endswith("/"):  # an empty page
                continue
            text = []
        end = line.find("</text>")
        text.append(line if end < 0 else line[:end])
        if end >= 0:
            yield "".join(text)
            text = None


def strip_markup(page: str) -> str:
    """Return the text of an article without most of its markup, which is enough to count words."""
    page = _drop_templates(html.unescape(page))
    for pattern, replacement in _MARKUP:
        page = pattern.sub(replacement, page)
    return page


def _drop_templates(page: str) -> str:
    """Replace each template, with those inside it, by a space; one that is not closed stays."""
    kept, opened = list[str](), list[int]()
    for piece in _BRACES.split(page):
        if piece == "}}" and opened:
            kept[opened.pop() :] = [" "]
            continue
        if piece == "{{":
            opened.append(len(kept))
        kept.append(piece)
    return "".join(kept)


def read_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """Yield the lines of a text file, decompressed by its suffix, in UTF-8, or in UTF-16 with a byte-order mark.

    Args:
        errors: `replace` reads bytes that are no text as U+FFFD.

    Raises: SourceError when it cannot be read.
    """
    number = 0
    try:
        with open_regular(path) as file, _decompress(file, path.suffix, errors) as lines:
            for number, line in enumerate(lines, 1):
                if errors == "strict" and "\0" in line:
                    raise UnusableSource(
                        f"cannot read {path}: line {number} has NUL characters; save the file in UTF-8"
                    )
                yield line
    except UnicodeDecodeError as error:
        raise UnusableSource(f"cannot read {path}: it is not in UTF-8 after line {number}; save it in UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise explain_unreadable(path, error) from error


def _decompress(file: BinaryIO, suffix: str, errors: str) -> TextIO:
    stream: Any = file
    if suffix in (".gz", ".bz2"):
        stream = (gzip if suffix == ".gz" else bz2).open(file)
    if suffix == ".zst":
        stream = pa.CompressedInputStream(pa.PythonFile(file), "zstd")
    buffered = io.BufferedReader(stream)
    is_utf16 = buffered.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(buffered, "utf-16" if is_utf16 else "utf-8-sig", errors)
