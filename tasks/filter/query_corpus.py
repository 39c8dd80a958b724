"""Reads the texts that queries are counted in, Wikipedia's page dumps or lines of any text, and counts on all cores."""

import bz2
import gzip
import html
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import polars as pl
import pyarrow as pa

from dataops.errors import SourceError
from dataops.text.query_building import BIGRAMS, UNIGRAMS, count_bigrams, count_unigrams, sum_counts
from tasks.engine.map_parts import worker_pool

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

Batch = tuple[list[str], bool]
"""Texts, and whether they are pages in Wikipedia's markup."""


def count_corpus_unigrams(paths: Sequence[Path], workers: int) -> pl.DataFrame:
    """How often each word occurs in the files: word, count."""
    return sum_counts(_count_batches(count_unigrams, paths, workers), UNIGRAMS)


def count_corpus_bigrams(paths: Sequence[Path], vocabulary: pl.Series, workers: int) -> pl.DataFrame:
    """How often each two words of the vocabulary follow one another: first, second (its rows), count."""
    return sum_counts(_count_batches(partial(count_bigrams, vocabulary), paths, workers), BIGRAMS)


def _count_batches(
    count: Callable[[pl.Series], pl.DataFrame], paths: Sequence[Path], workers: int
) -> Iterator[pl.DataFrame]:
    """The counts of each batch of the files: this process reads and unpacks, the workers take markup off and count."""
    batches = (batch for path in paths for batch in _read_batches(path))
    first = list(islice(batches, 2))
    if len(first) < 2 or workers < 2:  # a worker takes longer to start than to count
        yield from (_count_batch(count, batch) for source in (first, batches) for batch in source)
        return
    with worker_pool(workers) as pool:
        running: deque[Any] = deque()
        for batch in (batch for source in (first, batches) for batch in source):
            running.append(pool.submit(_count_batch, count, batch))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _count_batch(count: Callable[[pl.Series], pl.DataFrame], batch: Batch) -> pl.DataFrame:
    texts, pages = batch
    return count(pl.Series([strip_markup(text) for text in texts] if pages else texts, dtype=pl.String))


def _read_batches(path: Path) -> Iterator[Batch]:
    """The lines of a text in batches; of a page dump, each article as one line."""
    dump = ".xml" in path.name  # also enwiki-20261101-pages-articles1.xml-p1p41242.bz2
    held, size = list[str](), 0
    for line in _read_articles(path) if dump else _read_text(path):
        held.append(line)
        size += len(line)
        if size >= BATCH_CHARS:
            yield held, dump
            held, size = [], 0
    if held:
        yield held, dump


def _read_text(path: Path) -> Iterator[str]:
    """The lines of a text without those that WikiExtractor sets around each article."""
    return (line for line in read_lines(path) if not line.startswith(("<doc ", "</doc>")))


def _read_articles(path: Path) -> Iterator[str]:
    """The text of each article of a dump, in its markup; talk, templates and redirects are left out."""
    inside: list[str] | None = None
    article = True
    for line in read_lines(path):
        if inside is None:
            if "<page>" in line:
                article = True
            if "<redirect " in line or ("<ns>" in line and "<ns>0</ns>" not in line):
                article = False
            start = line.find("<text")
            if start < 0 or not article:
                continue
            tag, _, line = line[start:].partition(">")
            if tag.endswith("/"):  # of an empty page
                continue
            inside = []
        end = line.find("</text>")
        inside.append(line if end < 0 else line[:end])
        if end >= 0:
            yield "".join(inside)
            inside = None


def strip_markup(page: str) -> str:
    """The words of a page as it stands in a dump, roughly: enough to count them."""
    page, before = html.unescape(page), None
    while before != page:  # templates stand within templates
        before, page = page, _TEMPLATE.sub(" ", page)
    for pattern, put in _MARKUP:
        page = pattern.sub(put, page)
    return page


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, unpacked as its name says. Raises: SourceError where it cannot be read."""
    try:
        with _open(path) as file:
            yield from file
    except (OSError, EOFError) as error:
        raise SourceError(f"cannot read {path}: {error}") from error


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    if path.suffix == ".bz2":
        return bz2.open(path, "rt", encoding="utf-8", errors="replace")
    if path.suffix == ".zst":
        stream: Any = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return io.TextIOWrapper(stream, "utf-8", "replace")
    return path.open(encoding="utf-8", errors="replace")
