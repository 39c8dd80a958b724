"""`pairmill queries build`: the list of queries of filter.balance, from texts, titles and lemmas."""

import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from dataops.text.query_building import LEMMAS, TITLES, WORDS, Thresholds, merge_queries, select_bigrams, select_words
from tasks.filter.query_corpus import count_corpus_bigrams, count_corpus_unigrams, read_lines

logger = logging.getLogger(__name__)

WORDNET = frozenset({"index.noun", "index.verb", "index.adj", "index.adv"})
# Titles of pages that are no articles. Source: https://www.mediawiki.org/wiki/Help:Namespaces (they hold in every language)
_NAMESPACE = re.compile(
    r"(?:Media|Special|(?:User|Wikipedia|Project|File|Image|MediaWiki|Template|Help|Category|Portal|Draft|Module)"
    r"(?:_talk)?|Talk):.",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class QuerySources:
    """What a list is built from. Paths are files, folders (all that is in them) or globs."""

    text: Sequence[str] = ()
    """Lines, or Wikipedia's page dumps in XML; .gz, .bz2, .zst or plain."""
    titles: Sequence[str] = ()
    """Lines `title<TAB>views`, or Wikimedia's page views."""
    projects: Sequence[str] = ()
    """Of Wikimedia's page views, the projects that count (en, en.m, en.wikipedia, ...); none: all."""
    lemmas: Sequence[str] = ()
    """Lines, or WordNet's index files (of a folder that has them, these alone)."""
    wordfreq: Sequence[str] = ()
    """Languages whose most frequent words, as the package wordfreq knows them, are lemmas."""
    wordfreq_top: int = 20_000


def build_queries(given: QuerySources, thresholds: Thresholds, workers: int | None = None) -> pl.DataFrame:
    """Read the files and build the list (columns dataops.text.query_building.QUERIES).

    Args:
        workers: processes that count; None takes one per core.

    Raises: ConfigError for a missing file, nothing given or nothing found; SourceError for one that cannot be read.
    """
    text, titles, lemmas = _find_files(given.text, given.titles, given.lemmas)
    workers = workers or os.cpu_count() or 1
    views = [_read_titles(path, given.projects) for path in titles]
    lists = [_read_lemmas(path) for path in lemmas] + [
        _read_wordfreq(code, given.wordfreq_top) for code in given.wordfreq
    ]
    every_word = count_corpus_unigrams(text, workers)
    words = select_words(every_word, thresholds)
    pairs = count_corpus_bigrams(text, words["word"], workers)
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


def write_queries(found: pl.DataFrame, out: Path, given: QuerySources, thresholds: Thresholds) -> None:
    """Write a list as Parquet, whole or not at all; its key `pairmill` says what it was made of."""
    files = {path for paths in _find_files(given.text, given.titles, given.lemmas) for path in paths}
    read = [{"name": path.name, "sha256": file_sha256(path)} for path in sorted(files)]
    words = {"languages": list(given.wordfreq), "top": given.wordfreq_top} if given.wordfreq else None
    made_of = {"files": read, "thresholds": asdict(thresholds), "projects": list(given.projects), "wordfreq": words}
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        found.write_parquet(unfinished, compression="zstd", metadata={"pairmill": canonical_json(made_of)})
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def read_queries(path: Path) -> list[str]:
    """The queries of a list, in its order.

    Raises: ConfigError where there is no such file, or it is no Parquet file with a column `query` of texts with words.
    """
    wrong = ""
    try:
        queries = pl.read_parquet(path, columns=["query"], use_statistics=False)["query"]
    except FileNotFoundError:
        wrong = f"is no file (looked in {Path.cwd()})"
    except (OSError, pl.exceptions.PolarsError) as error:
        wrong = f"cannot be read: {str(error).splitlines()[0]}"
    else:
        if queries.dtype != pl.String:
            wrong = f"has a column query of type {queries.dtype}"
        elif not (worded := queries.str.contains(WORDS).fill_null(False)).all():
            wrong = f"row {worded.arg_min()} of query has no word"
        else:
            return queries.to_list()
    raise ConfigError(f"the list of queries {path} {wrong}; `pairmill queries build` makes one")


def _find_files(*given: Sequence[str]) -> list[list[Path]]:
    """The files of each list of paths, folders and globs, each once. Raises: ConfigError that names all that is none."""
    found = [{pattern: _expand_pattern(pattern) for pattern in patterns} for patterns in given]
    if missing := [pattern for each in found for pattern, files in each.items() if not files]:
        raise ConfigError(f"no such file: {', '.join(missing)}")
    return [list(dict.fromkeys(file for files in each.values() for file in files)) for each in found]


def _expand_pattern(pattern: str) -> list[Path]:
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    inside = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    wordnet = [file for file in inside if file.name in WORDNET]
    return [file for file in wordnet or inside if file.is_file()]


def _read_titles(path: Path, projects: Sequence[str]) -> pl.DataFrame:
    """Titles with their views: `title<TAB>views`, or `project title views bytes` and `project title id device views x`."""
    views: dict[str, int] = {}
    wrong: list[str] = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.rstrip("\n").split("\t") if "\t" in line else line.split()
        project, title, count = None, "", ""
        if len(fields) == 2:
            title, count = fields
        elif len(fields) in (4, 6):
            project, title, count = fields[0], fields[1], fields[2 if len(fields) == 4 else 4]
        if not title or not count.isdecimal():
            wrong += [f"line {number}: {line[:80]!r}"] if line.strip() else []
        elif not (projects and project and project not in projects) and not _NAMESPACE.match(title):
            views[title] = views.get(title, 0) + int(count)
    if wrong:
        logger.warning("%s: %d lines are no title with its views; the first is %s", path, len(wrong), wrong[0])
    columns = {"title": list(views), "count": list(views.values()), "source": [path.name] * len(views)}
    return pl.DataFrame(columns, schema=TITLES)


def _read_lemmas(path: Path) -> pl.DataFrame:
    """Lines; of WordNet's index files (whose licence is indented) the first field."""
    index = path.name in WORDNET
    found = [
        line.split()[0] if index else line.strip() for line in read_lines(path) if line.strip() and line[:2] != "  "
    ]
    return pl.DataFrame({"lemma": found, "source": [path.name] * len(found)}, schema=LEMMAS)


def _read_wordfreq(language: str, top: int) -> pl.DataFrame:
    try:
        import wordfreq
    except ImportError as error:
        raise ConfigError("the package wordfreq is not installed: pip install -e '.[queries]'") from error
    try:
        words = wordfreq.top_n_list(language, top)
    except LookupError as error:
        raise ConfigError(f"wordfreq has no language {language!r}: {error}") from error
    return pl.DataFrame({"lemma": words, "source": [f"wordfreq {language}"] * len(words)}, schema=LEMMAS)
