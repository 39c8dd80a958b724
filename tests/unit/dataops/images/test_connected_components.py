"""Connected parts are those that OpenCV finds."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.images.connected_components import find_components


def by_opencv(picture: np.ndarray, marks: np.ndarray) -> set[tuple[int, ...]]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(picture, connectivity=8, ltype=cv2.CV_32S)
    marked = np.bincount(labels[marks > 0], minlength=count)
    return {(*row, int(n)) for row, n in zip(stats[1:].tolist(), marked[1:], strict=True)}


def ours(picture: np.ndarray, marks: np.ndarray) -> set[tuple[int, ...]]:
    found = find_components(picture)
    rows = np.column_stack([found.boxes, found.areas, found.counts(marks)]).tolist()
    assert len(set(map(tuple, rows))) == len(rows), "two parts never have one box and area at one place"
    return set(map(tuple, rows))


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 30), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_noise_of_any_density(height: int, width: int, density: float, seed: int):
    chance = np.random.default_rng(seed)
    picture = np.where(chance.random((height, width)) < density, 255, 0).astype(np.uint8)
    marks = (chance.random((height, width)) < 0.5).astype(np.uint8)
    assert ours(picture, marks) == by_opencv(picture, marks)


@pytest.mark.parametrize("scale", [3, 9, 20])
def test_shapes_that_join_late(scale: int):
    """Combs and spirals, whose runs are found to be one part rows after they began."""
    small = np.zeros((11, 13), np.uint8)
    small[:9:2, ::2] = small[10] = small[:, ::4] = small[4, 4:] = 255
    picture = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    for turned in (picture, picture[::-1], picture.T, np.ascontiguousarray(picture[:, ::-1])):
        marks = np.ones(turned.shape, np.uint8)
        assert ours(turned, marks) == by_opencv(np.ascontiguousarray(turned), marks)


def test_order_and_empty_pictures():
    picture = np.zeros((4, 40), np.uint8)
    assert len(find_components(picture).areas) == 0
    picture[0, 30:] = picture[1:3, 2:20] = 255
    assert find_components(picture).boxes.tolist() == [[30, 0, 10, 1], [2, 1, 18, 2]]
    assert find_components(picture).areas.tolist() == [10, 36]
    assert find_components(np.full((3, 5), 255, np.uint8)).boxes.tolist() == [[0, 0, 5, 3]]
