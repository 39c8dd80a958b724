"""The commands over pairs and datasets: where they came from, what differs, what must go, what they speak of."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.commands.options import Json, Several, StoreUri
from infra.local import services


def trace(
    what: str,
    *,
    limit: Annotated[int, Parameter(help="Pairs that are told in full.")] = 20,
    index: Annotated[bool, Parameter(negative="--no-index", help="Make the indexes that are missing.")] = True,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Tell where a pair came from and which models saw it, or what a model was made of.

    Args:
        what: a uid, address, domain, image file, model version (models:/name/3, name@alias), or snapshot's key.
    """
    from flows.commands.trace import trace as tell

    return tell(what, services.home(), store, limit=limit, index=index, as_json=json)


def takedown(
    file: Path,
    *,
    reason: Annotated[str, Parameter(help="Written down with the request.")] = "",
    delete_raw: Annotated[
        bool,
        Parameter(negative="", help="Also delete the pictures from raw shards and from the dataset versions before."),
    ] = False,
    yes: Annotated[bool, Parameter(name="--yes", negative="", help="With --delete-raw: do not ask.")] = False,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Take pairs out of every dataset, name and tag the models that saw them, and prove that nothing is left.

    Args:
        file: addresses, domains, uids, sha256, phash:HEX, image:PATH, one a line; or CSV (kind, value), or TOML.
    """
    from flows.commands.takedown import TakedownOptions
    from flows.commands.takedown import takedown as take_down

    return take_down(TakedownOptions(file, reason, delete_raw, yes), services.home(), store, as_json=json)


def promote(
    model: str,
    *,
    alias: str = "champion",
    reason: Annotated[str, Parameter(help="Written into the audit trail.")] = "",
    json: Json = False,
) -> int:
    """Give a version of a model an alias, also back to an earlier one; with no version, print the audit trail.

    Args:
        model: models:/name/3, or name/3; a name alone for the trail.
    """
    from flows.commands.promote import promote as move

    return move(model, alias, reason, as_json=json)


def diff(
    a: str,
    b: str,
    *,
    rows: Annotated[
        Path | None, Parameter(help="Also write each added and removed pair and why to this file: .parquet or .csv.")
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Say what one dataset has that another has not, and why.

    Args:
        a: the key of a dataset (of the stage pack), or a run that made or reused one.
        b: another; `added` is what B has and A has not.
    """
    from flows.commands.diff import show_diff

    return show_diff(a, b, services.home(), store, rows, as_json=json)


def build(
    *,
    out: Path,
    text: Several = (),
    titles: Several = (),
    project: Several = (),
    lemmas: Several = (),
    wordfreq: Several = (),
    wordfreq_top: int = 20_000,
    min_unigram: int = 100,
    min_bigram: int = 100,
    min_pmi: float = 6.0,
    min_views: int = 70,
    min_chars: int = 2,
    json: Json = False,
) -> int:
    """Build a list of queries: frequent words, telling pairs of words, popular titles, lemmas.

    Files may be named by folders and globs too, and be packed as .gz, .bz2 or .zst.

    Args:
        out: the Parquet file to write.
        text: lines, or Wikipedia's page dumps in XML.
        titles: lines `title<TAB>views`, or Wikimedia's page views.
        project: of Wikimedia's page views, the projects that count: en, en.m, en.wikipedia. None: all.
        lemmas: lines, or WordNet's index files.
        wordfreq: languages of which the package wordfreq gives the most frequent words.
        wordfreq_top: how many of them.
        min_unigram: occurrences of a word in the text.
        min_bigram: occurrences of a pair of words.
        min_pmi: its pointwise mutual information, in bits.
        min_views: views of a title.
        min_chars: characters of a query. 1 is for languages in which one character is a word.
    """
    from dataops.text.query_building import Thresholds
    from flows.commands.output import show_queries
    from tasks.filter.queries import QuerySources, build_queries, write_queries

    given = QuerySources(text, titles, project, lemmas, wordfreq, wordfreq_top)
    at = Thresholds(min_unigram, min_bigram, min_pmi, min_views, min_chars)
    found = build_queries(given, at)
    write_queries(found, out, given, at)
    return show_queries(found, out, as_json=json)
