"""Decoding at the scale that is needed, and crops of images, against Pillow and torchvision."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.photographs import photograph
from training.data import decode
from training.data.keyed_random import draw_uniforms
from training.model.preprocess import decode_rgb


def smooth(height, width):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def as_jpeg(image):
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=95)
    return sink.getvalue()


@pytest.mark.parametrize(("side", "shape"), [(300, (301, 400)), (151, (301, 400)), (150, (151, 200)), (30, (38, 50))])
def test_an_image_is_decoded_at_the_smallest_sufficient_scale(side, shape):
    image = smooth(301, 400)
    decoded = decode.decode_image(as_jpeg(image), side)
    assert decoded.shape == (*shape, 3)
    expected = np.asarray(image.resize(shape[::-1], Image.Resampling.BOX), np.float64)
    assert abs(decoded - expected).mean() < 2.5


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_at_full_scale_pixels_equal_pillows(mode):
    data = as_jpeg(smooth(40, 50).convert(mode))
    assert np.array_equal(decode.decode_image(data, 40), np.asarray(decode_rgb(data)))


def test_a_palette_image_without_its_palette_is_unreadable():
    sink = io.BytesIO()
    smooth(40, 50).quantize(16).save(sink, "PNG")
    data = sink.getvalue()
    palette = data.index(b"PLTE")
    length = 12 + int.from_bytes(data[palette - 4 : palette], "big")
    with pytest.raises(ValueError, match="not a readable picture"):
        decode.decode_image(data[: palette - 4] + data[palette - 4 + length :], 8)


def test_crops_have_torchvisions_distribution():
    from scipy.stats import ks_2samp  # here, since each test process would load both for seconds
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    number, area = 2000, (0.5, 1.0)
    image = torch.empty(3, 60, 90)
    theirs = np.array([RandomResizedCrop.get_params(image, list(area), list(decode.ASPECT)) for _ in range(number)])
    draws = draw_uniforms("crop", 0, 0, np.arange(number), decode.DRAWS)
    ours = np.array([decode.draw_crop(60, 90, area, u) for u in draws])
    for column in range(4):
        assert ks_2samp(theirs[:, column], ours[:, column]).statistic < 0.05, column
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= 60).all()
    assert (ours[:, 1] + ours[:, 3] <= 90).all()


@pytest.mark.parametrize("shrink", [1.02, 1.1, 1.16, 1.3, 1.49, 1.6, 3.0])
def test_shrinking_is_close_to_the_resize_of_evaluation(shrink):
    """Compare a photograph with Pillow's bicubic kernel, which averages as it shrinks; a cubic one alone has 30 dB."""
    photo = np.asarray(photograph("china.jpg"))[:400, :400]
    side = round(400 / shrink)
    expected = np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC), np.float64)
    error = np.square(decode.resize_shortest_side(photo, side) - expected).mean()
    assert 10 * np.log10(255**2 / error) > 37


def test_a_crop_is_scaled_as_in_pillow():
    image = smooth(96, 128)
    for crop, limit in (((3, 8, 80, 90), 1.0), ((0, 0, 40, 40), 1.0), ((5, 60, 32, 32), 0.0)):
        top, left, height, width = crop
        scaled = np.empty((32, 32, 3), np.uint8)
        decode.write_crop(np.asarray(image), crop, scaled)
        box = (left, top, left + width, top + height)
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box=box), np.float64)
        assert abs(scaled - expected).mean() <= limit
