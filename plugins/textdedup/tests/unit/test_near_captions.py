"""Compares the pairs in buckets, the ranks and the greedy choice with plain Python."""

import random
import time

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from dataops.schema import uid
from dataops.text.duplicates import compute_keys
from plugins.textdedup.near_captions import (
    MAX_LEADERS,
    MEMBERS,
    PAIRS,
    compute_ranks,
    find_dropped,
    find_near_pairs,
)
from plugins.textdedup.tests.unit import slow_captions as slow

WORDS = ["a", "red", "kite", "over", "the", "old", "hill", "again", "Kite!", "京", "塔"]
CAPTION = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)
MEMBER = st.fixed_dictionaries(
    {"bucket": st.integers(0, 2), "rank": st.integers(0, 4), "origin": st.integers(0, 1), "caption": CAPTION}
)


@given(st.lists(MEMBER, max_size=14), st.sampled_from([0.5, 0.7, 0.8, 1.0]), st.randoms(use_true_random=False))
def test_find_near_pairs_equals_a_reference_in_plain_python(rows, threshold, random):
    rows = [row | {"id": i} for i, row in enumerate(rows)]
    expected = slow.near_pairs(rows, threshold, MAX_LEADERS)
    random.shuffle(rows)
    found = find_near_pairs(pl.DataFrame(rows, schema=MEMBERS), threshold)
    assert set(found.select("better", "worse").iter_rows()) == expected
    ranks = {row["id"]: (row["rank"], row["origin"]) for row in rows}
    for better, rank_, origin, worse, worse_rank in found.select(list(PAIRS)).iter_rows():
        assert (rank_, origin) == ranks[better] <= ranks[worse]
        assert worse_rank == ranks[worse][0]


def template(number, seed=0):
    """Return captions that have much in common, of which no two are near-duplicates."""
    chance = random.Random(seed)
    ends = ["".join(chance.choices("etaoinshrdlu", k=25)) for _ in range(number)]
    return [f"House for sale with garden in {end}" for end in ends]


def test_find_near_pairs_compares_a_large_bucket_with_few_leaders():
    apart = template(20_000)
    rows = {"bucket": 7, "id": range(len(apart)), "rank": range(len(apart)), "origin": 0, "caption": apart}
    started = time.process_time()
    assert find_near_pairs(pl.DataFrame(rows, schema=MEMBERS), 0.8).height == 0
    assert time.process_time() - started < 20, "1.3 million comparisons, not 200 million"
    few = apart[: MAX_LEADERS + 3]
    twice = pl.DataFrame(
        {"bucket": 7, "id": range(2 * len(few)), "rank": range(2 * len(few)), "origin": 0, "caption": few + few},
        schema=MEMBERS,
    )
    found = find_near_pairs(twice, 0.8).sort("worse")
    assert found["better"].to_list() == list(range(MAX_LEADERS))
    assert found["worse"].to_list() == [len(few) + i for i in range(MAX_LEADERS)]


PAIR = st.tuples(st.integers(0, 15), st.integers(0, 15)).filter(lambda p: p[0] != p[1])


def frame(pairs, order):
    rows = [(b, order[b][0], order[b][1], w, order[w][0]) for b, w in pairs]
    return pl.DataFrame(rows, schema=PAIRS, orient="row")


def graph(pairs, ranks):
    order = {i: (ranks[i], i % 2, i) for i in range(16)}
    return {(a, b) if order[a] < order[b] else (b, a) for a, b in pairs}, order


GRAPH = st.builds(graph, st.sets(PAIR, max_size=40), st.lists(st.integers(0, 5), min_size=16, max_size=16))


@given(GRAPH)
def test_find_dropped_drops_exactly_the_rows_with_a_better_kept_row(known):
    pairs, order = known
    left = find_dropped(frame(pairs, order), pl.Series([], dtype=pl.UInt64))
    dropped = set(left["worse"].to_list())
    assert left["worse"].to_list() == sorted(dropped)
    assert dropped == slow.leaving(pairs, order)
    assert all((worse in dropped) == any(b not in dropped for b, w in pairs if w == worse) for _, worse in pairs)
    assert left["worse_rank"].to_list() == [order[worse][0] for worse in left["worse"]]


def test_ranks_of_near_captions_have_the_order_of_the_sources_first():
    rows = pl.DataFrame(
        {
            "url": ["u", "v"] * 2,
            "caption": ["kite", "a red kite over the hill"] * 2,
            "caption_source": ["filename", "alt"] * 2,
            "page_url": "p",
            "source": ["b/x", "a/x", "a/x", "b/x"],
            "source_offset": 0,
        }
    )
    rows = rows.with_columns(
        uid=pl.Series([uid(url, caption) for url, caption in rows.select("url", "caption").rows()])
    )
    ranks = compute_ranks(compute_keys(rows, sources=[*(f"s{n}" for n in range(62)), "a", "b"]), several_sources=True)
    assert ranks.arg_sort().to_list() == [1, 2, 3, 0]
    one = compute_keys(rows)
    assert (compute_ranks(one) // (1 << 54)).to_list() == one["rank"].to_list(), "a single source needs no bits"
