"""Compares the fast resizer with the exact one, which is img2dataset's."""

import io
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from dataops.images.decode import read_header
from tasks.download.img2dataset_classes import Resizer
from tasks.download.previews import Previews
from tasks.download.resizers import CheckedResizer, FastResizer

# img2dataset pads with an argument that albumentations has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.*fill instead:DeprecationWarning", "ignore:.*fill instead:UserWarning")
MODES = ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


def photograph(size: tuple[int, int], mode: str = "RGB", kind: str = "JPEG", **options: Any) -> bytes:
    image = Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))
    sink = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).convert(mode).save(sink, kind, **({"quality": 90} | options))
    return sink.getvalue()


def resizers(**options: Any) -> tuple[Resizer, CheckedResizer, FastResizer]:
    known: dict[str, Any] = {"image_size": 128, "resize_mode": "keep_ratio", "resize_only_if_bigger": False} | options
    return Resizer(**known), CheckedResizer(Previews(), **known), FastResizer(Previews(), **known)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)), np.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(640, 424), (643, 427), (300, 200), (200, 1100), (90, 60)])
def test_resizers_give_the_same_sizes_and_similar_pixels(mode: str, size: tuple[int, int]) -> None:
    theirs, checked, fast = (resize(io.BytesIO(photograph(size))) for resize in resizers(resize_mode=mode))
    assert checked == theirs, "all bits are equal by default"
    assert fast[3:] == theirs[3:] == (*size, None)
    # The smaller picture's sides are rounded, and the result's with them.
    assert all(abs(a - b) <= 1 for a, b in zip(fast[1:3], theirs[1:3], strict=True))
    if size[0] % 8 == size[1] % 8 == 0:  # else it is shifted by a fraction of a pixel
        error = np.mean((pixels(fast[0]) - pixels(theirs[0])) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > 26


def test_fast_resizer_decodes_at_the_largest_factor_that_is_enough() -> None:
    _, _, fast = resizers(min_image_size=100)
    for size, factor in {(255, 300): 1, (256, 300): 2, (511, 900): 2, (512, 513): 4, (1024, 1100): 8}.items():
        assert fast.factor(read_header(photograph(size))) == factor
        assert fast.factor(read_header(photograph(size, kind="PNG"))) == 1
    assert fast.factor(read_header(photograph((512, 512), "CMYK"))) == 1
    assert fast.factor(read_header(photograph((90, 4000)))) == 1, "img2dataset refuses it"


def test_fast_resizer_keeps_grey_images_and_ignores_orientation() -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6  # rotation by a quarter, which img2dataset ignores
    several: list[dict[str, Any]] = [{"mode": "L"}, {"exif": rotated}]
    for options in several:
        data = photograph((640, 424), **options)
        theirs, _, fast = (resize(io.BytesIO(data)) for resize in resizers())
        assert pixels(fast[0]).shape == pixels(theirs[0]).shape
        assert fast[1:] == theirs[1:]


def test_resizers_refuse_images_with_the_same_message() -> None:
    limits = {"min_image_size": 200, "max_aspect_ratio": 3.0}
    for size in ((199, 400), (1600, 300), (640, 427)):
        theirs, checked, fast = (resize(io.BytesIO(photograph(size))) for resize in resizers(**limits))
        assert fast[5] == checked[5] == theirs[5]
        assert (fast[0] is None) == (theirs[0] is None)


def test_resizers_refuse_damaged_bytes() -> None:
    data = photograph((640, 427))
    _, checked, fast = resizers()
    for bad in (data[: len(data) // 2], b"\xff\xd8\xff" + bytes(300), b"<html>"):
        messages = {resize(io.BytesIO(bad))[5] for resize in (checked, fast)}
        assert len(messages) == 1
        assert None not in messages
