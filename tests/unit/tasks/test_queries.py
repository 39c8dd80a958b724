"""`pairmill queries build` against plain counting."""

import bz2
import gzip
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from dataops.errors import ConfigError, SourceError
from dataops.query_building import QUERIES, Thresholds
from tasks import queries
from tasks.queries import build_queries, plain_text

LINES = ["New York is big.", "new york, new kite!", "Kite in the New York sky", "the kite", "A kite; a sky", ""] * 3
LOW = Thresholds(min_unigram=3, min_bigram=3, min_pmi=0.5, min_views=10)


def built(thresholds: Thresholds = LOW, **files) -> pl.DataFrame:
    given = {"text": [], "titles": [], "lemmas": [], "wordfreq": [], "wordfreq_top": 10} | files
    return build_queries(**given, thresholds=thresholds)


def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES))
    return path


def slowly(lines: list[str], at: Thresholds) -> dict[str, tuple[str, int]]:
    said = [["".join(c if c.isalnum() else " " for c in line.lower()).split()] for line in lines]
    words = [word for [line] in said for word in line]
    counts = Counter(words)
    pairs = Counter(pair for [line] in said for pair in pairwise(line))
    found = {w: ("unigram", n) for w, n in counts.items() if n >= at.min_unigram and len(w) >= at.min_chars}
    for (one, two), n in pairs.items():
        known = one in found and two in found
        if known and n >= at.min_bigram and math.log2(n * len(words) / counts[one] / counts[two]) >= at.min_pmi:
            found[f"{one} {two}"] = ("bigram", n)
    return found


@pytest.mark.parametrize("batch", [10, 100, 10_000])
def test_words_and_bigrams_as_counted_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int):
    monkeypatch.setattr(queries, "BATCH_CHARS", batch)
    found = built(text=[text(tmp_path)])
    assert found.schema == pl.Schema(QUERIES)
    assert {row["query"]: (row["kind"], row["count"]) for row in found.to_dicts()} == slowly(LINES, LOW)
    assert "new york" in found["query"].to_list()
    assert found["query"].to_list() == sorted(found["query"].to_list())


def test_every_compression_and_a_page_dump_read_the_same(tmp_path: Path):
    plain = text(tmp_path)
    data = plain.read_bytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(data))
    (tmp_path / "a.bz2").write_bytes(bz2.compress(data))
    (tmp_path / "a.zst").write_bytes(pa.compress(data, "zstd", asbytes=True))
    pages = "".join(f"<page><text bytes='9' xml:space=\"preserve\">{line}</text></page>\n" for line in LINES)
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(pages.encode()))
    expected = built(text=[plain])
    for name in ("a.gz", "a.bz2", "a.zst", "dump.xml.bz2"):
        assert built(text=[tmp_path / name]).equals(expected), name


def test_markup_is_taken_off():
    page = (
        "{{Infobox|a={{nested|x}}|b}} '''Kites''' are [[tether]]ed [[aircraft|craft]].<ref name=a>no</ref><ref x/>\n"
        "{| class=w\n|-\n| cell\n|}\n== History ==\n[[File:a.jpg|thumb|of a [[dog]]]] see [https://x.org this] <!-- no -->"
    )
    assert plain_text(page).split() == ["Kites", "are", "tethered", "craft.", "History", "see", "this"]


def test_titles_lemmas_and_word_lists(tmp_path: Path):
    (tmp_path / "views.tsv").write_text("Red_Kite\t50\nRare\t3\nkite\t99\n\n")
    (tmp_path / "pageviews").write_text("en Blue_Kite 7 0\nen Blue_Kite 8 0\nde.m X 1 2 3\n")
    (tmp_path / "index.noun").write_text("  1 This software\nbox_kite n 1 1 @ 1 0 02874086\nkite n 4\n")
    (tmp_path / "extra.txt").write_text("Paper Plane\n!?\nx\n")
    found = built(
        text=[text(tmp_path)],
        titles=[tmp_path / "views.tsv", tmp_path / "pageviews"],
        lemmas=[tmp_path / "index.noun", tmp_path / "extra.txt"],
    )
    rows = {row["query"]: row for row in found.to_dicts()}
    assert rows["red kite"] == {"query": "red kite", "kind": "title", "count": 50, "score": None, "source": "views.tsv"}
    assert rows["blue kite"]["count"] == 15
    assert rows["kite"]["kind"] == "unigram"
    assert rows["box kite"]["source"] == "index.noun"
    assert rows["paper plane"]["kind"] == "lemma"
    assert not {"rare", "!?", "x", "this software"} & set(rows)
    pytest.importorskip("wordfreq")
    assert "the" in built(wordfreq=["en"])["query"].to_list()


def test_what_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no such file: .*none\.txt"):
        built(text=[tmp_path / "none.txt"])
    with pytest.raises(ConfigError, match="no query is above the thresholds"):
        built()
    (tmp_path / "bad.gz").write_bytes(gzip.compress(b"kite\n" * 1000)[:-20])
    with pytest.raises(SourceError, match=r"bad\.gz"):
        built(text=[tmp_path / "bad.gz"])
    with pytest.raises(ConfigError, match="no language 'xx'"):
        pytest.importorskip("wordfreq") and built(wordfreq=["xx"])
