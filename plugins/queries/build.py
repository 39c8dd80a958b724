"""Builds the list of queries of filter.balance from texts, titles and lemmas (`pairmill queries build`)."""

import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import polars as pl

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError, writing
from dataops.process import count_cores
from plugins.queries.building import LEMMAS, TITLES, Thresholds, merge_queries, select_bigrams, select_words
from plugins.queries.corpus import BATCH_CHARS, count_corpus_bigrams, count_corpus_unigrams, read_lines
from tasks.files.find import fixed_folder

logger = logging.getLogger(__name__)

MAX_DIGITS = 15
"""Maximum digits of a title's views, so that their sums are integers of 64 bits."""
WORDNET = frozenset({"index.noun", "index.verb", "index.adj", "index.adv"})
# Namespaces of pages that are no articles, in every language. Source: https://www.mediawiki.org/wiki/Help:Namespaces
_NAMESPACE = re.compile(
    r"(?:Media|Special|(?:User|Wikipedia|Project|File|Image|MediaWiki|Template|Help|Category|Portal|Draft|Module)"
    r"(?:_talk)?|Talk):.",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class QuerySources:
    """Sources of a list of queries. Paths are files, folders (all files in them) or globs."""

    text: Sequence[str] = ()
    """Files of lines, or Wikipedia's page dumps in XML; .gz, .bz2, .zst or uncompressed."""
    titles: Sequence[str] = ()
    """Files of lines `title<TAB>views`, or Wikimedia's page views."""
    projects: Sequence[str] = ()
    """Projects of Wikimedia's page views that count (en, en.m, en.wikipedia, ...); empty is all."""
    lemmas: Sequence[str] = ()
    """Files of lines, or WordNet's index files (in a folder that has these, only these)."""


def build_queries(
    sources: QuerySources, thresholds: Thresholds, workers: int | None = None, batch_chars: int = BATCH_CHARS
) -> pl.DataFrame:
    """Read the files and build the list (columns dataops.text.query_list.QUERIES).

    Args:
        workers: number of processes that count; None is one per core.
        batch_chars: characters of a batch, which one process counts at a time.

    Raises: ConfigError when a file is missing, or no query is above the thresholds; SourceError when a file cannot be
        read.
    """
    text, titles, lemmas = _find_files(sources.text, sources.titles, sources.lemmas)
    workers = workers or count_cores()
    views = [_read_titles(path, sources.projects) for path in titles]
    lists = [_read_lemmas(path) for path in lemmas]
    every_word = count_corpus_unigrams(text, workers, batch_chars)
    words = select_words(every_word, thresholds)
    pairs = count_corpus_bigrams(text, words["word"], workers, batch_chars)
    found = merge_queries(
        words,
        select_bigrams(pairs, words, int(every_word["count"].sum()), thresholds),
        pl.concat([pl.DataFrame(schema=TITLES), *views]),
        pl.concat([pl.DataFrame(schema=LEMMAS), *lists]),
        thresholds,
    )
    if not found.height:
        raise ConfigError("no query is above the thresholds; give more text, titles or lemmas, or lower them")
    return found


def check_out(out: Path, sources: QuerySources) -> None:
    """Raise a ConfigError if the file to write is a folder or a source."""
    files = (path for paths in _find_files(sources.text, sources.titles, sources.lemmas) for path in paths)
    if out.is_dir() or (out.exists() and any(path.samefile(out) for path in files)):
        raise ConfigError(f"--out {out} is a folder, or one of the files that are read; name another file")


def write_queries(found: pl.DataFrame, out: Path, sources: QuerySources, thresholds: Thresholds) -> None:
    """Write a list as Parquet, atomically; its metadata key `pairmill` holds the sources and the thresholds."""
    files = {path for paths in _find_files(sources.text, sources.titles, sources.lemmas) for path in paths}
    digests = [{"name": path.name, "sha256": file_sha256(path)} for path in sorted(files)]
    origin = {"files": digests, "thresholds": asdict(thresholds), "projects": list(sources.projects)}
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    data = BytesIO()  # the errors of Polars have no number by which `writing` finds a full disk
    found.write_parquet(data, compression="zstd", metadata={"pairmill": canonical_json(origin)})
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(data.getbuffer())
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)


def _find_files(*lists: Sequence[str]) -> list[list[Path]]:
    """Return the files of each list of paths, folders and globs, each once.

    Raises: ConfigError that names all patterns without a file.
    """
    found = [{pattern: _expand_pattern(pattern) for pattern in patterns} for patterns in lists]
    if missing := [pattern for each in found for pattern, files in each.items() if not files]:
        raise ConfigError(f"no such file: {', '.join(missing)}")
    return [list(dict.fromkeys(file for files in each.values() for file in files)) for each in found]


def _expand_pattern(pattern: str) -> list[Path]:
    folder = fixed_folder(pattern)
    rest = str(Path(pattern).relative_to(folder))
    is_name = (folder / rest).exists()  # also one with brackets
    names = [rest] if is_name else sorted(glob.glob(rest, root_dir=folder, recursive=True))  # noqa: PTH207
    paths = [folder / name for name in names]
    inside = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    wordnet = [file for file in inside if file.name in WORDNET]
    return [file for file in wordnet or inside if file.is_file()]


def _read_titles(path: Path, projects: Sequence[str]) -> pl.DataFrame:
    """Read titles with their views.

    The form of a line is `title<TAB>views`, `project title views bytes` or `project title id device views x`.
    """
    views: dict[str, int] = {}
    bad_lines: list[str] = []
    for number, line in enumerate(read_lines(path, "replace"), 1):
        fields = line.rstrip("\n").split("\t") if "\t" in line else line.split()
        project, title, count = None, "", ""
        if len(fields) == 2:
            title, count = fields
        elif len(fields) in (4, 6):
            project, title, count = fields[0], fields[1], fields[2 if len(fields) == 4 else 4]
        if not title or not count.isdecimal() or len(count) > MAX_DIGITS or "\ufffd" in title:
            bad_lines += [f"line {number}: {line[:80]!r}"] if line.strip() else []
        elif not (projects and project and project not in projects) and not _NAMESPACE.match(title):
            views[title] = views.get(title, 0) + int(count)
    if bad_lines:
        logger.warning(
            "%s: skipped %d lines without a title in UTF-8 and its views; first: %s", path, len(bad_lines), bad_lines[0]
        )
    columns = {"title": list(views), "count": list(views.values()), "source": [path.name] * len(views)}
    return pl.DataFrame(columns, schema=TITLES)


def _read_lemmas(path: Path) -> pl.DataFrame:
    """Read lines, or the first field of the lines of WordNet's index files, in which the licence is indented."""
    is_index = path.name in WORDNET
    lines = (line for line in read_lines(path) if line.strip() and line[:2] != "  ")
    lemmas = [line.split()[0] if is_index else line.strip() for line in lines]
    return pl.DataFrame({"lemma": lemmas, "source": [path.name] * len(lemmas)}, schema=LEMMAS)
