"""Match the demo's queries with the names of the demo's emoji."""

import tomllib

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from dataops.home import CHECKOUT
from dataops.kernels.hashes import uid_halves
from dataops.schema import uid
from dataops.text.balance import (
    compute_effective_number,
    compute_probabilities,
    count_query_matches,
    expect_query_matches,
    hash_queries,
    sample_pairs,
)
from dataops.text.query_list import QUERIES, read_queries
from dataops.text.query_matching import compile_queries, match_queries
from plugins.demo.emoji_set import load_emoji
from plugins.demo.queries import MIN_INFORMATION, MIN_PAIR, MIN_WORD, build_queries

CONFIG = CHECKOUT / "configs" / "demo.toml"


@pytest.fixture(scope="module")
def queries() -> pl.DataFrame:
    return build_queries()


def test_queries_are_words_and_collocations(queries: pl.DataFrame):
    assert queries.schema == pl.Schema(QUERIES)
    rows = {row["query"]: row for row in queries.to_dicts()}
    assert len(rows) == queries.height > 100_000
    assert {"octopus", "skin tone", "roller coaster", "police officer"} < set(rows)
    assert "some customers" not in rows
    assert set(queries["source"]) == {"symspellpy"}
    for row in queries.sample(1000, seed=0).to_dicts():
        least = MIN_WORD if row["kind"] == "unigram" else MIN_PAIR
        assert row["count"] >= least
        assert (row["score"] is None) == (row["kind"] == "unigram") or row["score"] >= MIN_INFORMATION


def test_the_demos_balancing_keeps_nearly_all_pairs_in_each_epoch(queries: pl.DataFrame):
    balance = tomllib.loads(CONFIG.read_text())["filter"]["balance"]
    assert balance["mode"] == "online"
    assert balance["keep_unmatched"]
    captions = pa.array([text for one in load_emoji() for text in (one.name, *one.wordings)])
    matches = match_queries(captions, compile_queries(queries["query"].to_list()))
    counts = count_query_matches(matches, queries.height)
    salts = hash_queries(queries["query"].to_list(), 0)
    uids = uid_halves(pa.array([uid("http://a.example/", caption) for caption in captions.to_pylist()]))
    _, chance = sample_pairs(uids, matches, compute_probabilities(counts, balance["max_per_query"]), salts)
    matched = matches.value_lengths().to_numpy() > 0
    assert matched.mean() > 0.95
    assert np.where(matched, chance, 1).mean() > 0.95
    after = expect_query_matches(matches, queries.height, np.where(matched, chance, 1))
    assert compute_effective_number(after) > 1.03 * compute_effective_number(counts)


def test_the_build_writes_the_queries(web, queries: pl.DataFrame):
    assert read_queries(web.queries) == queries["query"].to_list()
    assert web.counts["queries"] == queries.height
