"""img2dataset's Resizer behind a look at the header: exact, or fast by decoding JPEGs at a fraction of their size."""

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
    """img2dataset's Resizer, which decodes only what read_header takes for a whole image of bearable size.

    Args:
        previews: told of each picture that is looked at.
        options: the Resizer's own.
    """

    def __init__(self, previews: Previews, **options: Any):
        super().__init__(**options)
        self._previews = previews

    def __call__(self, img_stream: Any, blurring_bbox_list: Any = None) -> Any:
        data = img_stream.getvalue()
        self._previews.seen(data)
        try:
            header = read_header(data, self.max_image_area)
        except ImageRefused as refused:
            return None, None, None, None, None, str(refused)
        return self.resize(img_stream, data, header)

    def resize(self, img_stream: Any, data: bytes, header: Header) -> Any:
        """What the Resizer makes of a whole image."""
        return super().__call__(img_stream)


class FastResizer(CheckedResizer):
    """Decodes a JPEG at 1/2, 1/4 or 1/8 of its size, where that is still no smaller than what is asked for.

    A JPEG's 8x8 blocks of cosine coefficients give the smaller picture without the work for the pixels between
    (libjpeg's scaled decoding); img2dataset's Resizer then gets that picture, with less than a halving left to do, for
    which linear interpolation will do. What is not a grey or a colour JPEG, or too small, goes the exact way.
    """

    def __init__(self, previews: Previews, **options: Any):
        super().__init__(previews, **options)
        limits = ("min_image_size", "max_image_area", "max_aspect_ratio")  # they are the original's
        rest = {name: value for name, value in options.items() if name not in limits}
        self._small = Resizer(**rest, downscale_interpolation="linear")

    def resize(self, img_stream: Any, data: bytes, header: Header) -> Any:
        factor = self.factor(header)
        if factor == 1:
            return super().resize(img_stream, data, header)
        flag = REDUCED[factor][header.mode == "L"] | cv2.IMREAD_IGNORE_ORIENTATION  # as the exact way does
        small = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if small is None:
            return None, None, None, None, None, "Image decoding error"
        bitmap = io.BytesIO(cv2.imencode(".bmp", small)[1].tobytes())  # the pixels behind a header: no work
        picture, width, height, _, _, message = self._small(bitmap)
        whole = (None, None) if message else (header.width, header.height)
        return picture, width, height, *whole, message

    def factor(self, header: Header) -> int:
        """By how much a picture may be decoded smaller: 1 (the exact way), 2, 4 or 8."""
        small, large = sorted((header.width, header.height))
        refused = small < self.min_image_size or large > self.max_aspect_ratio * small
        if refused or header.kind != "jpeg" or header.mode not in ("L", "RGB") or self.resize_mode.name == "no":
            return 1
        side = large if self.resize_mode.name in ("border", "keep_ratio_largest") else small
        return max((n for n in REDUCED if side >= n * self.image_size), default=1)
