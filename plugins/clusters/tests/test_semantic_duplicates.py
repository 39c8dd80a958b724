"""Semantic duplicates are those of a slow search of all pairs, whatever the blocks."""

import numpy as np
import pytest

from plugins.clusters import semantic_duplicates
from plugins.clusters.semantic_duplicates import find_semantic_duplicates
from plugins.clusters.vectors import SCALE, round_features


def find_slowly(features: np.ndarray, least: float) -> list[bool]:
    kept: list[int] = []
    for row in range(len(features)):
        dots = [sum(int(a) * int(b) for a, b in zip(features[row], features[one], strict=True)) for one in kept]
        if not any(dot >= least * SCALE * SCALE for dot in dots):
            kept.append(row)
    return [row not in kept for row in range(len(features))]


@pytest.mark.parametrize("least", [0.5, 0.9, 0.99])
def test_dropped_rows_are_those_of_a_slow_search(least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    raw = np.repeat(random.normal(size=(12, 5)), 5, axis=0) + random.normal(scale=0.2, size=(60, 5))
    features = round_features(raw[random.permutation(60)])
    expected = find_slowly(features, least)
    assert 0 < sum(expected) < 60
    for rows in (1, 7, 1024):
        monkeypatch.setattr(semantic_duplicates, "BLOCK_ROWS", rows)
        assert find_semantic_duplicates(features, least).tolist() == expected


def test_each_dropped_row_has_a_kept_one_that_is_similar() -> None:
    angles = np.linspace(0, 1.2, 13)  # a chain: each is like its neighbours only
    features = round_features(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    found = find_semantic_duplicates(features, np.cos(0.11))
    assert found.tolist() == [False, True] * 6 + [False]


def test_no_rows() -> None:
    assert find_semantic_duplicates(np.empty((0, 0), np.int16), 0.9).tolist() == []
