"""Checks the header of an image before img2dataset's Resizer decodes it, and decodes JPEGs at a smaller size."""

import io
from typing import Any

import cv2
import numpy as np

from dataops.images.decode import Header, ImageRefused, read_header
from tasks.download.img2dataset_classes import Resizer
from tasks.download.previews import Previews

REDUCED = {
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
}


class CheckedResizer(Resizer):
    """A Resizer that decodes only whole images with at most `max_image_area` pixels, by read_header.

    Args:
        previews: receives the original of each image.
        options: options of the base class.
    """

    def __init__(self, previews: Previews, **options: Any):
        super().__init__(**options)
        self._previews = previews

    def __call__(self, img_stream: Any, blurring_bbox_list: Any = None) -> Any:
        data = img_stream.getvalue()
        self._previews.set_original(data)
        try:
            header = read_header(data, self.max_image_area)
        except ImageRefused as refused:
            return None, None, None, None, None, str(refused)
        return self.resize(img_stream, data, header)

    def resize(self, img_stream: Any, data: bytes, header: Header) -> Any:
        """Return the Resizer's result for an image that passed the checks."""
        return super().__call__(img_stream)


class FastResizer(CheckedResizer):
    """Decodes a JPEG at 1/2, 1/4 or 1/8 of its size, if that is not smaller than the target size.

    libjpeg's scaled decoding computes the smaller image from the 8x8 blocks of cosine coefficients, without the pixels
    between. img2dataset's Resizer then shrinks it by less than a half, for which linear interpolation is good enough.
    All other images (not a grey or RGB JPEG, or too small) are resized exactly.
    """

    def __init__(self, previews: Previews, **options: Any):
        super().__init__(previews, **options)
        limits = ("min_image_size", "max_image_area", "max_aspect_ratio")  # they hold for the original
        options = {name: value for name, value in options.items() if name not in limits}
        self._small_resizer = Resizer(**options, downscale_interpolation="linear")

    def resize(self, img_stream: Any, data: bytes, header: Header) -> Any:
        factor = self.factor(header)
        if factor == 1:
            return super().resize(img_stream, data, header)
        flag = REDUCED[factor][header.mode == "L"] | cv2.IMREAD_IGNORE_ORIENTATION  # as img2dataset does
        small = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if small is None:
            return None, None, None, None, None, "Image decoding error"
        bitmap = io.BytesIO(cv2.imencode(".bmp", small)[1].tobytes())  # uncompressed, so it costs nearly nothing
        image, width, height, _, _, message = self._small_resizer(bitmap)
        original_size = (None, None) if message else (header.width, header.height)
        return image, width, height, *original_size, message

    def factor(self, header: Header) -> int:
        """Return the factor by which an image may be decoded smaller: 2, 4, 8, or 1 to resize it exactly."""
        small, large = sorted((header.width, header.height))
        is_refused = small < self.min_image_size or large > self.max_aspect_ratio * small
        if is_refused or header.kind != "jpeg" or header.mode not in ("L", "RGB") or self.resize_mode.name == "no":
            return 1
        side = large if self.resize_mode.name in ("border", "keep_ratio_largest") else small
        return max((n for n in REDUCED if side >= n * self.image_size), default=1)
