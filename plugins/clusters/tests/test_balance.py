"""Small clusters are merged by cosine, and probabilities balance clusters, as slow computations give them."""

import numpy as np
import pytest

from plugins.clusters.balance import compute_probabilities, merge_small_clusters
from plugins.clusters.vectors import round_features


def bisect_probabilities(sizes: list[int], alpha: float, share: float) -> list[float]:
    """Find `s` by bisection."""
    low, high = 0.0, 1e9
    for _ in range(300):
        middle = (low + high) / 2
        rows = sum(n * min(1.0, middle * n ** (alpha - 1)) for n in sizes if n)
        low, high = (middle, high) if rows < share * sum(sizes) else (low, middle)
    return [min(1.0, high * n ** (alpha - 1)) if n else 1.0 for n in sizes]


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("sizes", [[1, 1, 5, 20, 300, 0, 5], [7], [4, 4, 4], [0, 10_000_000, 3]])
def test_probabilities_are_those_of_a_bisection(sizes: list[int], share: float, alpha: float) -> None:
    found = compute_probabilities(sizes, alpha, share)
    assert found == pytest.approx(bisect_probabilities(sizes, alpha, share), rel=1e-6)
    expected = sum(n * p for n, p in zip(sizes, found, strict=True))
    assert expected == pytest.approx(share * sum(sizes))
    rows = [n * p for n, p in sorted(zip(sizes, found, strict=True))]
    assert rows == sorted(rows)  # the order of the clusters by size is kept


def test_probabilities_of_no_rows() -> None:
    assert compute_probabilities([], 0.2, 0.5) == []
    assert compute_probabilities([0, 0], 0.2, 0.5) == [1.0, 1.0]


def merge_slowly(sizes: list[int], centroids: np.ndarray, least: int) -> list[int]:
    members = {cluster: [cluster] for cluster, size in enumerate(sizes) if size}
    rows = dict(enumerate(sizes))
    while len(members) > 1 and min(rows[one] for one in members) < least:
        smallest = min(members, key=lambda one: (rows[one], one))
        dots = {one: sum(int(a) * int(b) for a, b in zip(centroids[one], centroids[smallest], strict=True))
                for one in members if one != smallest}  # fmt: skip
        target = max(dots, key=lambda one: (dots[one], -one))
        members[target] += members.pop(smallest)
        rows[target] += rows[smallest]
    into = list(range(len(sizes)))
    for target, merged in members.items():
        for one in merged:
            into[one] = target
    return into


@pytest.mark.parametrize("least", [1, 4, 30, 1000])
def test_small_clusters_are_merged_into_the_nearest_that_has_rows(least: int) -> None:
    random = np.random.default_rng(least)
    sizes = [int(n) for n in random.integers(0, 9, 40)]
    centroids = round_features(random.normal(size=(40, 6)))
    found = merge_small_clusters(sizes, centroids, least)
    assert found == merge_slowly(sizes, centroids, least)
    merged = np.bincount(found, weights=sizes)
    assert least > 30 or all(rows >= least for rows in merged if rows)
