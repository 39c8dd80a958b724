import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.near_duplicates import candidates, clusters, survivors, verified


def obvious_candidates(hashes: np.ndarray, groups: np.ndarray, distance: int) -> list[list[int]]:
    return [
        [i, j]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if groups[i] == groups[j] and (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance
    ]


def some_hashes(seed: int, count: int) -> np.ndarray:
    """Hashes around a few centres, at 0 to 12 flipped bits."""
    random = np.random.default_rng(seed)
    centres = random.integers(0, 2**64, 5, np.uint64)
    result = centres[random.integers(0, 5, count)]
    for _ in range(12):
        flips = np.uint64(1) << random.integers(0, 64, count).astype(np.uint64)
        result = np.where(random.random(count) < 0.3, result ^ flips, result)
    return result


@pytest.mark.parametrize("distance", [0, 1, 3, 6, 10, 16])
@pytest.mark.parametrize("seed", range(4))
def test_banded_search_finds_what_the_obvious_one_finds(seed: int, distance: int) -> None:
    hashes = some_hashes(seed, 150)
    groups = np.random.default_rng(seed).integers(0, 1 + seed, 150)
    found = candidates(hashes, groups, distance)
    assert found.tolist() == obvious_candidates(hashes, groups, distance)


def test_nothing_and_one() -> None:
    assert candidates(np.array([], np.uint64), np.array([], np.int64), 4).shape == (0, 2)
    assert candidates(np.array([7], np.uint64), np.array([0]), 4).shape == (0, 2)
    assert clusters(0, np.empty((0, 2), np.int64)).tolist() == []


def test_thumbnails_verify() -> None:
    thumbnails = np.array([[10, 10], [14, 10], [10, 15], [255, 0]], np.uint8)
    pairs = np.array([[0, 1], [0, 2], [0, 3], [1, 2]])
    assert verified(pairs, thumbnails, 4).tolist() == [[0, 1]]
    assert verified(pairs, thumbnails, 5).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert verified(pairs[:0], thumbnails, 5).shape == (0, 2)


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_clusters_are_connected_components_whatever_the_order(pairs: list[tuple[int, int]], random) -> None:
    label = list(range(20))  # the obvious way: spread the smallest label until nothing changes
    for _ in range(20):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    assert clusters(20, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == label
    random.shuffle(pairs)
    assert clusters(20, np.array(pairs, np.int64).reshape(-1, 2)).tolist() == label


def test_one_survivor_a_cluster() -> None:
    cluster = np.array([0, 0, 2, 0, 2])
    ranking = np.array([4, 1, 3, 2, 0])
    assert survivors(cluster, ranking).tolist() == [False, True, False, False, True]
    assert survivors(cluster[:0], ranking[:0]).tolist() == []
