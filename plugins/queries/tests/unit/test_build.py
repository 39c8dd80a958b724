"""Compares `pairmill queries build` with plain counting."""

import bz2
import gzip
import math
import re
from collections import Counter
from itertools import pairwise

import polars as pl
import pyarrow as pa
import pytest

from dataops.errors import ConfigError, SourceError
from dataops.text.query_list import QUERIES, read_queries
from plugins.queries.build import QuerySources, build_queries
from plugins.queries.building import Thresholds
from plugins.queries.command import build
from plugins.queries.corpus import strip_markup

LINES = [
    "Vitamin C is big.",
    "New York is big.",
    "new york, new kite!",
    "Kite in the New York sky",
    "the kite",
    "A kite; a sky",
    "",
] * 3
LOW = Thresholds(min_unigram=3, min_bigram=3, min_pmi=0.5, min_views=10)


def built(thresholds=LOW, workers=1, batch=10_000, **files):
    named = {kind: [str(name) for name in names] for kind, names in files.items()}
    return build_queries(QuerySources(**named), thresholds, workers, batch)


def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES))
    return path


def count_slowly(lines, at):
    tokens = [["".join(c if c.isalnum() else " " for c in line.lower()).split()] for line in lines]
    words = [word for [line] in tokens for word in line]
    counts = Counter(words)
    pairs = Counter(pair for [line] in tokens for pair in pairwise(line))
    found = {w: ("unigram", n) for w, n in counts.items() if n >= at.min_unigram and len(w) >= at.min_chars}
    for (one, two), n in pairs.items():
        if n >= at.min_bigram and math.log2(n * len(words) / counts[one] / counts[two]) >= at.min_pmi:
            found[f"{one} {two}"] = ("bigram", n)
    return found


@pytest.mark.parametrize("rarer", [LOW, Thresholds(min_unigram=7, min_bigram=3, min_pmi=0.5)])
@pytest.mark.parametrize("batch", [10, 100, 10_000])
def test_build_queries_counts_words_and_bigrams(tmp_path, batch, rarer):
    found = built(rarer, batch=batch, text=[text(tmp_path)])
    assert found.schema == pl.Schema(QUERIES)
    assert {row["query"]: (row["kind"], row["count"]) for row in found.to_dicts()} == count_slowly(LINES, rarer)
    assert {"new york", "vitamin c"} < set(found["query"]), "a word too short for a query may stand in one"
    assert found["query"].to_list() == sorted(found["query"].to_list())


def test_build_queries_reads_each_compression_and_a_page_dump(tmp_path):
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


def test_build_queries_reads_only_the_articles_of_a_dump(tmp_path):
    pages = [
        ("0", "", LINES),
        ("10", "", ["a template of zebras"] * 9),
        ("0", '<redirect title="X" />', ["lemurs"] * 9),
    ]
    page = "<page>\n<ns>{}</ns>\n{}\n<text>{}</text>\n</page>\n"
    empty = '<page>\n<ns>0</ns>\n<text bytes="0" xml:space="preserve" />\n<sha1>lemurs zebras</sha1>\n</page>\n'
    dump = empty * 9 + "".join(page.format(ns, redirect, "\n".join(lines)) for ns, redirect, lines in pages)
    path = tmp_path / "enwiki-20261101-pages-articles1.xml-p1p41242.bz2"
    path.write_bytes(bz2.compress(dump.encode()))
    found = built(text=[path])
    assert {"kite", "new york"} < set(found["query"])
    assert not {"zebras", "lemurs", "text", "page", "ns"} & set(found["query"])


@pytest.mark.timeout(20)  # a pass for each level would take minutes
def test_strip_markup_drops_nested_templates_in_linear_time():
    levels = 100_000
    page = f"a {'{{b|' * levels}c{'}}' * levels} d {{{{e {{f|g}} h}}}} }}}} i {{{{open"
    assert strip_markup(page).split() == ["a", "d", "}}", "i", "{{open"]


def test_build_queries_reads_titles_lemmas_and_word_lists(tmp_path):
    (tmp_path / "views.tsv").write_text("Red_Kite\t41\nRare\t3\nkite\t99\n\n")
    views = (
        "en red_kite 9 0\nen Blue_Kite 7 0\nen Blue_Kite 8 0\nde.m X 1 2 3\nde Drache 99 0\nen Special:Search 99 0\n"
    )
    (tmp_path / "pageviews").write_text(views + "en.wikipedia Dog_Kite 12 desktop 88 A8\n")
    wordnet = tmp_path / "dict"
    wordnet.mkdir()
    (wordnet / "index.noun").write_text("  1 This software\nbox_kite n 1 1 @ 1 0 02874086\nkite n 4\n")
    (wordnet / "data.noun").write_text("02874086 06 n 01 box_kite 0 001 @ 03628511 n 0000 | a kite\n")
    (tmp_path / "extra.txt").write_text("Paper Plane\n!?\nx\n")
    found = built(
        text=[text(tmp_path)],
        titles=[tmp_path / "views.tsv", tmp_path / "pageviews"],
        projects=["en", "en.wikipedia"],
        lemmas=[wordnet, tmp_path / "extra.txt"],
    )
    rows = {row["query"]: row for row in found.to_dicts()}
    assert rows["red kite"]["source"] == "views.tsv, pageviews"
    assert (rows["red kite"]["kind"], rows["red kite"]["count"], rows["red kite"]["score"]) == ("title", 50, None)
    assert rows["blue kite"]["count"] == 15
    assert rows["dog kite"]["count"] == 88
    assert (rows["kite"]["kind"], rows["kite"]["source"]) == ("unigram", "text, views.tsv, index.noun")
    assert rows["box kite"]["source"] == "index.noun"
    assert rows["paper plane"]["kind"] == "lemma"
    assert not {"rare", "!?", "x", "this software", "drache", "special:search"} & set(rows)


def test_build_queries_names_unreadable_sources(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file: .*none\.txt, .*/\*\.gz"):
        built(text=[tmp_path / "none.txt"], lemmas=[f"{tmp_path}/*.gz"])
    with pytest.raises(ConfigError, match="no query is above the thresholds"):
        built()
    for damaged in (gzip.compress(b"kite\n" * 1000)[:-20], gzip.compress(b"kite\n")[:10] + b"\xff" * 20):
        (tmp_path / "bad.gz").write_bytes(damaged)
        with pytest.raises(SourceError, match=r"bad\.gz"):
            built(text=[tmp_path / "bad.gz"])
    out = tmp_path / "bad.gz"
    for options, message in [
        ({"min_pmi": math.nan}, "min-pmi is nan"),
        ({"min_views": 10**400}, "no count reaches"),
        ({"min_chars": -(10**30)}, "no count reaches"),
        ({}, "--out .* one of the files that are read"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(out=out, text=[str(out)], **options)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("\ufeffkite\r\ndrake\r\n".encode(), ["drake", "kite"]),
        ("kite\r\ndrake\r\n".encode("utf-16"), ["drake", "kite"]),
        ("kite\ndrake\n".encode("utf-16-le"), "line 1 has NUL characters"),
        ("café\n".encode("latin-1"), "is not in UTF-8 after line 0"),
        (b"kite\t" + b"9" * 5000 + b"\ndrake\t99\nCaf\xe9\t99\n", ["drake"]),
    ],
    ids=["a mark of UTF-8", "UTF-16", "UTF-16 without a mark", "Latin-1", "impossible views"],
)
def test_build_queries_reads_files_of_other_systems(tmp_path, content, found):
    path = tmp_path / "files [1]/list [a].txt"
    path.parent.mkdir()
    path.write_bytes(content)
    files = {"titles" if b"\t" in content else "lemmas": [path]}
    if isinstance(found, list):
        assert built(**files)["query"].to_list() == found
    else:
        with pytest.raises(SourceError, match=found):
            built(**files)


def test_read_queries_refuses_other_files(tmp_path):
    path = tmp_path / "list.parquet"
    for content, message in [
        (None, "is not a file"),
        (b"PAR1", "cannot be read"),
        (pl.DataFrame({"text": ["kite"]}), "cannot be read"),
        (pl.DataFrame({"query": [1]}), "has a column query of type Int64"),
        (pl.DataFrame({"query": ["kite", "?!"]}), "has no word in row 1 of column query"),
        (pl.DataFrame({"query": ["kite", None]}), "has no word in row 1 of column query"),
    ]:
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            content.write_parquet(path)
        with pytest.raises(ConfigError, match=re.escape(message) + r".*pairmill queries build"):
            read_queries(path)
    pl.DataFrame({"query": ["kite", "red panda"]}).write_parquet(path)
    assert read_queries(path) == ["kite", "red panda"]
