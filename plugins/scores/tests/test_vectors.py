"""Features in fixed point: dot products in float32 are exact, and the nearest centroid is that of whole numbers."""

import numpy as np
import pyarrow as pa
import pytest

from plugins.scores.clusters.vectors import (
    CENTROIDS,
    MAX_WIDTH,
    SCALE,
    Centroids,
    round_features,
    split_features,
)


def exact_dots(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one.astype(np.int64) @ other.astype(np.int64).T


@pytest.mark.parametrize("width", [1, 3, 512, MAX_WIDTH])
def test_dot_products_in_float32_are_exact(width: int) -> None:
    random = np.random.default_rng(width)
    features = round_features(np.concatenate([random.normal(size=(6, width)), np.ones((1, width))]))
    features[-1] = -features[-2]  # the largest dot products
    exact = exact_dots(features, features)
    assert np.array_equal(features.astype(np.float32) @ features.astype(np.float32).T, exact)
    assert np.abs(exact).max() < 1 << 24
    norms = np.sqrt(np.diag(exact))
    assert norms == pytest.approx(SCALE, rel=1e-3)


def test_rows_belong_to_the_nearest_centroid_of_the_nearest_group() -> None:
    random = np.random.default_rng(2)
    rows, groups, fine = (round_features(random.normal(size=(n, 4))) for n in (50, 3, 9))
    rows[7] = rows[8]
    fine[5] = fine[4]  # equally near: the first one counts
    sizes = [2, 6, 1]
    of = np.repeat(range(3), sizes)
    columns = {"group": of, "group_centroid": [groups[one].tobytes() for one in of], "centroid": split_features(fine)}
    centroids = Centroids.of_table(pa.table(columns, schema=CENTROIDS))
    assert centroids.sizes.tolist() == sizes
    whole = centroids.find_nearest(rows)
    cut = centroids.find_nearest(rows, 100)
    for row, feature in enumerate(rows):
        group = int(exact_dots(feature[None], groups)[0].argmax())
        dots = np.where(of == group, exact_dots(feature[None], fine)[0], -(1 << 30))
        assert whole[0][row] == cut[0][row] == dots.argmax()
        assert whole[1][row] == cut[1][row] == dots.max()
