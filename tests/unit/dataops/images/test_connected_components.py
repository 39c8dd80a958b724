"""Compare connected components with those of OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.images.connected_components import find_components


def by_opencv(image: np.ndarray, marks: np.ndarray) -> set[tuple[int, ...]]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8, ltype=cv2.CV_32S)
    marked = np.bincount(labels[marks > 0], minlength=count)
    return {(*row, int(n)) for row, n in zip(stats[1:].tolist(), marked[1:], strict=True)}


def ours(image: np.ndarray, marks: np.ndarray) -> set[tuple[int, ...]]:
    found = find_components(image)
    rows = np.column_stack([found.boxes, found.areas, found.count_marked(marks)]).tolist()
    assert len(set(map(tuple, rows))) == len(rows), "two components never have equal boxes and areas"
    return set(map(tuple, rows))


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 30), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_find_components_equals_opencv_on_noise(height: int, width: int, density: float, seed: int):
    random = np.random.default_rng(seed)
    image = np.where(random.random((height, width)) < density, 255, 0).astype(np.uint8)
    marks = (random.random((height, width)) < 0.5).astype(np.uint8)
    assert ours(image, marks) == by_opencv(image, marks)


@pytest.mark.parametrize("scale", [3, 9, 20])
def test_find_components_joins_runs_that_meet_in_later_rows(scale: int):
    """Find the components of combs and spirals, whose runs are connected only some rows below."""
    small = np.zeros((11, 13), np.uint8)
    small[:9:2, ::2] = small[10] = small[:, ::4] = small[4, 4:] = 255
    image = cv2.resize(small, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    for turned in (image, image[::-1], image.T, np.ascontiguousarray(image[:, ::-1])):
        marks = np.ones(turned.shape, np.uint8)
        assert ours(turned, marks) == by_opencv(np.ascontiguousarray(turned), marks)


def test_find_components_is_ordered_by_first_pixel_and_may_be_empty():
    image = np.zeros((4, 40), np.uint8)
    assert len(find_components(image).areas) == 0
    image[0, 30:] = image[1:3, 2:20] = 255
    assert find_components(image).boxes.tolist() == [[30, 0, 10, 1], [2, 1, 18, 2]]
    assert find_components(image).areas.tolist() == [10, 36]
    assert find_components(np.full((3, 5), 255, np.uint8)).boxes.tolist() == [[0, 0, 5, 3]]
