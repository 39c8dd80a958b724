"""The search for near hashes finds what a comparison with each hash in Python integers finds."""

import numpy as np
import pytest

from dataops.images.digests import DistanceSet


def to_number(words):
    return sum(int(word) << 64 * place for place, word in enumerate(words))


def flip(words, bits):
    changed = words.copy()
    for bit in bits.tolist():
        changed[bit // 64] ^= np.uint64(1 << bit % 64)
    return changed


@pytest.mark.parametrize("max_bits", [0, 1, 31, 64])
def test_finds_exactly_the_hashes_within_the_distance(max_bits):
    generator = np.random.default_rng(max_bits)
    listed = generator.integers(0, 2**64, (50, 4), np.uint64)
    listed[0] = 2**64 - 1
    queries = [
        flip(listed[number], generator.permutation(256)[:distance])
        for number, distance in ((0, max_bits), (17, max_bits), (49, max_bits), (3, max_bits + 1), (4, 200))
    ]
    queries += [flip(listed[5], np.arange(max_bits)), flip(listed[6], np.arange(max_bits + 1)), ~listed[0]]
    numbers = list(map(to_number, listed))
    oracle = [min((to_number(query) ^ one).bit_count() for one in numbers) <= max_bits for query in queries]
    assert [DistanceSet(listed, block=16).find_near(query, max_bits) is not None for query in queries] == oracle
    assert oracle == [True, True, True, False, False, True, False, False]


def test_empty_set_has_nothing_near():
    assert DistanceSet(np.empty((0, 4), np.uint64)).find_near(np.zeros(4, np.uint64), 256) is None
