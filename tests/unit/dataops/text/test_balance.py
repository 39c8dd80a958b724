import numpy as np
import pyarrow as pa
import pytest

from dataops.kernels.hashes import uid_halves
from dataops.schema import uid
from dataops.text.balance import (
    compute_probabilities,
    count_query_matches,
    hash_queries,
    sample_pairs,
)

PAIRS = 40_000
QUERIES = ["the", "kite", "box kite", "unicorn"]


def pairs(number=PAIRS):
    """Return matches: query 0 in every caption, 1 in every tenth, 2 in every thousandth; none in every hundredth."""
    uids = [uid(f"http://a.example/{i}", "x") for i in range(number)]
    matches = [[] if i % 100 == 99 else [0] + [1] * (i % 10 == 0) + [2] * (i % 1000 == 0) for i in range(number)]
    return uid_halves(pa.array(uids)), pa.array(matches, pa.list_(pa.uint32()))


def test_sample_pairs_samples_frequent_queries_and_keeps_rare_ones():
    uids, matches = pairs()
    counts = count_query_matches(matches, 4)
    assert counts.tolist() == [39_600, 4000, 40, 0]
    keep, chance = sample_pairs(uids, matches, compute_probabilities(counts, 1000), hash_queries(QUERIES, 0))
    has = [np.array([number in m for m in matches.to_pylist()]) for number in range(3)]
    assert keep[has[2]].all()
    assert not keep[~has[0]].any()
    expected = 1000 / 39_600
    only_head = has[0] & ~has[1]
    assert chance[only_head] == pytest.approx(expected)
    assert keep[only_head].mean() == pytest.approx(expected, abs=4 * (expected / only_head.sum()) ** 0.5)
    both = 1 - (1 - 0.25) * (1 - expected)
    middle = has[1] & ~has[2]
    assert chance[middle] == pytest.approx(both)
    assert keep[middle].mean() == pytest.approx(both, abs=4 * (both / middle.sum()) ** 0.5)


def test_sample_pairs_depends_on_the_seed_and_not_on_order():
    uids, matches = pairs(2000)
    chances = compute_probabilities(count_query_matches(matches, 4), 50)
    keep, _ = sample_pairs(uids, matches, chances, hash_queries(QUERIES, 3))
    order = np.random.default_rng(0).permutation(2000)
    again, _ = sample_pairs(uids[order], matches.take(pa.array(order)), chances, hash_queries(QUERIES, 3))
    assert (again == keep[order]).all()
    assert (sample_pairs(uids, matches, chances, hash_queries(QUERIES, 4))[0] != keep).any()
    part, _ = sample_pairs(uids[500:600], matches[500:600], chances, hash_queries(QUERIES, 3))
    assert (part == keep[500:600]).all()
