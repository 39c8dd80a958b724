import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.cases import curate_banners
from benchmarks.inputs import images
from dataops.images.text_banner import is_text_banner
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspect_image


def test_text_banners_are_detected_and_photographs_are_not() -> None:
    assert len(curate_banners.find_banners(curate_banners.make_banners(40))) >= 38
    assert curate_banners.find_banners(images.cut_tiles()) == []


def draw_shapes(*shapes: tuple[str, tuple[int, ...]]) -> np.ndarray:
    image = Image.new("L", (200, 120), 255)
    draw = ImageDraw.Draw(image)
    for kind, box in shapes:
        getattr(draw, kind)(box, fill=0, **({"width": 3} if kind == "line" else {}))
    return np.asarray(image)


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [("ellipse", (60, 20, 140, 100))],
        [("rectangle", (10 + 20 * n, 40, 20 + 20 * n, 80)) for n in range(9)],  # bars
        [("ellipse", (10 + 20 * n, 40, 22 + 20 * n, 52)) for n in range(9)],  # beads
        [("line", (10 + 20 * n, 60 - 5 * n, 24 + 20 * n, 70 + 5 * n)) for n in range(9)],
        [("rectangle", (2 * n, 0, 2 * n, 120)) for n in range(100)],
    ],
)
def test_shapes_in_rows_are_not_text(shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    assert not is_text_banner(draw_shapes(*shapes))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5, 5), (64, 64)])
def test_noise_of_any_size_is_not_text(size: tuple[int, int]) -> None:
    assert not is_text_banner(np.random.default_rng(0).integers(0, 256, size, np.uint8))


def test_text_beside_a_shape_is_kept_and_the_check_can_be_off() -> None:
    banner = curate_banners.make_banners(3)[2]
    data = images.encode_as_downloaded(banner)
    assert inspect_image(data, (99, 99), CurateConfig())["drop_reason"] == "text_banner"
    assert inspect_image(data, (99, 99), CurateConfig(text_banners=False))["drop_reason"] is None
    both = Image.new("RGB", (banner.width, banner.height + 80), banner.getpixel((0, 0)))
    both.paste(banner, (0, 0))
    ImageDraw.Draw(both).ellipse((10, banner.height + 5, 80, banner.height + 75), fill="red")
    assert inspect_image(images.encode_as_downloaded(both), (99, 99), CurateConfig())["drop_reason"] is None
