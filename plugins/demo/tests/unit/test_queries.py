"""Match the demo's queries with the names of the demo's emoji."""

import polars as pl
import pytest

from dataops.text.query_list import QUERIES
from plugins.demo.queries import MIN_INFORMATION, MIN_PAIR, MIN_WORD, build_queries


@pytest.fixture(scope="module")
def queries():
    return build_queries()


def test_queries_are_words_and_collocations(queries):
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
