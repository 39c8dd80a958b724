"""Grey of 16 bits keeps its shades, in all decoders of training, evaluation and previews."""

import numpy as np
import pytest
from PIL import Image

from dataops.images.decode import decode
from tests.image_files import as_file
from training.data.decode import decode_image
from training.model.preprocess import decode_rgb

GREY_HW = np.linspace(0, 65_535, 12 * 10).astype(np.uint16).reshape(12, 10)
EXPECTED_HW3 = np.repeat((GREY_HW >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("function", [decode, decode_rgb, lambda data: decode_image(data, 10)])
def test_deep_grey_keeps_its_shades(function):
    assert np.array_equal(np.asarray(function(as_file(Image.fromarray(GREY_HW)))), EXPECTED_HW3)
    on_white = EXPECTED_HW3.copy()
    on_white[0, 3] = 255
    transparent = as_file(Image.fromarray(GREY_HW), transparency=int(GREY_HW[0, 3]))
    assert np.array_equal(np.asarray(function(transparent)), on_white)
