"""Read the kind, the size and the pixels of an image from its bytes, upright (orientation.py).

Bytes from the web may be hostile: the kind is read from the bytes, never from a name or an HTTP
header; the size in pixels and the structure (structure.py) are checked before a pixel is decoded;
and Pillow opens them as this kind only, without metadata.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from dataops.images.kinds import KINDS, sniff
from dataops.images.orientation import parse_orientation, read_orientation, turn_image, turn_pixels
from dataops.images.rgb import convert_to_rgb
from dataops.images.structure import TooComplex, check_scans, cut_metadata, read_scans, read_segments
from dataops.reasons import Reason, Unusable

MAX_AREA = 1 << 26
"""Default maximum number of pixels of a decoded image: 200 MB, and up to 1.3 GB while it is decoded."""


class ImageRefused(Unusable):
    """Bytes that cannot be used as an image. `reason` is a stable class; the message is `reason: detail`."""


@dataclass(frozen=True)
class Header:
    """Kind and size of an image, read without decoding it. The size is that of the upright image."""

    kind: str
    width: int
    height: int
    mode: str = ""
    """Pillow's name of the pixel format: L, RGB, CMYK, ..."""
    orientation: int = 1
    """How the stored pixels are to be turned: 1, which is upright, to 8."""

    @property
    def area(self) -> int:
        return self.width * self.height


_NOT_IMAGES = frozenset({"", "html", "pdf", "gzip"})


def read_header(data: bytes, max_area: float = float("inf")) -> Header:
    """Return kind and size of an image, if it is complete and small enough to be decoded.

    Args:
        max_area: in pixels; a decoder allocates width x height, however few the bytes are (a decompression bomb).

    Raises: ImageRefused with not_an_image, unsupported_format, truncated, decode, too_complex or too_many_pixels.
    """
    kind = sniff(data)
    if kind in _NOT_IMAGES:
        raise ImageRefused(Reason.NOT_AN_IMAGE, f"the bytes look like {kind or 'no known format'}")
    if kind not in KINDS:
        raise ImageRefused(Reason.UNSUPPORTED_FORMAT, kind)
    with _structure_checked():
        essential = cut_metadata(data, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_area is the limit here
            with Image.open(io.BytesIO(essential), formats=[KINDS[kind]]) as image:
                (width, height), mode = image.size, image.mode
                orientation = read_orientation(data, kind, image)
    except Image.DecompressionBombError:
        raise ImageRefused(Reason.TOO_MANY_PIXELS, "more pixels than Pillow opens") from None
    except Exception as error:  # Pillow's parsers let many types escape on hostile bytes
        raise ImageRefused(Reason.DECODE, f"unreadable {kind} header ({type(error).__name__})") from None
    if width * height > max_area:
        raise ImageRefused(Reason.TOO_MANY_PIXELS, f"{width}x{height} pixels")
    with _structure_checked():
        if is_truncated(data, kind):
            raise ImageRefused(Reason.TRUNCATED, f"the {kind} ends early")
    if orientation >= 5:
        width, height = height, width
    return Header(kind, width, height, mode, orientation)


@contextmanager
def _structure_checked() -> Iterator[None]:
    try:
        yield
    except TooComplex as error:
        raise ImageRefused(Reason.TOO_COMPLEX, str(error)) from None


def is_deep(data: bytes, kind: str) -> bool:
    """Return whether a PNG or AVIF has more than 8 bits per channel: Pillow keeps the upper 8, OpenCV more or none.

    Source: PNG section 11.2.2 (bit depth in IHDR); AV1-ISOBMFF section 2.3.3 (high_bitdepth in av1C).
    """
    if kind == "png":
        return data[24] == 16
    at = data.find(b"av1C", 0, 1 << 16) if kind == "avif" else -1
    return 0 <= at < len(data) - 6 and bool(data[at + 6] & 0x40)


def is_truncated(data: bytes, kind: str) -> bool:
    """Return whether bytes are missing by the format's end marker or length; False if the format has neither.

    Decoders fill missing pixels with grey and report success. No pixel is decoded here.

    Raises: TooComplex.

    Source: ITU-T T.81 annex B (EOI), PNG section 11.2.5 (IEND), RFC 9649 (the RIFF length).
    """
    if kind == "jpeg":
        first_scan = read_segments(data).first_scan
        return first_scan is None or not read_scans(data, first_scan).is_whole
    if kind == "png":
        return data.rfind(b"IEND\xaeB`\x82") < 0
    if kind == "webp":
        return len(data) < 8 + struct.unpack_from("<I", data, 4)[0]
    return False


def decode(data: bytes) -> Image.Image:
    """Decode an image as RGB, upright, with transparency on white.

    Raises: ImageRefused with `corrupt` if any part of it cannot be decoded, or with `too_complex`.
    """
    kind = sniff(data)
    if kind not in KINDS:
        raise ImageRefused(Reason.CORRUPT, f"the bytes look like {kind or 'no known format'}")
    with _structure_checked():
        essential = cut_metadata(data, kind)
    try:
        with Image.open(io.BytesIO(essential), formats=[KINDS[kind]]) as image:
            image.load()
            orientation = read_orientation(data, kind, image)
            return turn_image(convert_to_rgb(image), orientation)
    except Exception as error:  # Pillow's decoders let many types escape on hostile bytes
        raise ImageRefused(Reason.CORRUPT, f"{kind} ({type(error).__name__})") from None


def decode_pixels(data: bytes, max_area: float = MAX_AREA) -> NDArray[np.uint8]:
    """Decode an image as RGB (height, width, 3), upright, with transparency on white; of an animation, the first frame.

    JPEGs are decoded by libjpeg-turbo directly, which also reports damage; the pixels equal those
    of `decode`.

    Raises: ImageRefused with not_an_image, unsupported_format, truncated, too_many_pixels, too_complex or corrupt.
    """
    if sniff(data) == "jpeg" and (found := _jpeg_pixels(data, max_area)) is not None:
        return found
    try:
        read_header(data, max_area)
    except ImageRefused as refused:
        if refused.reason != Reason.DECODE:
            raise
        raise ImageRefused(Reason.CORRUPT, str(refused)) from None
    return np.asarray(decode(data))


def _jpeg_pixels(data: bytes, max_area: float) -> NDArray[np.uint8] | None:
    """Return None if Pillow must decode it: CMYK, unsupported kinds of JPEG, or a warning that affects no pixel."""
    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    height, width, space, _ = header
    if width * height > max_area:
        raise ImageRefused(Reason.TOO_MANY_PIXELS, f"{width}x{height} pixels")
    with _structure_checked():
        if not data.endswith(b"\xff\xd9") and is_truncated(data, "jpeg"):  # the decoder reports bytes missing inside
            raise ImageRefused(Reason.TRUNCATED, "the jpeg ends early")
        segments = read_segments(data)
        check_scans(data, height, width, segments.first_scan)
        orientation = parse_orientation(segments.exif)
    if space not in ("YCbCr", "Gray", "RGB"):
        return None
    try:
        pixels = simplejpeg.decode_jpeg(data, strict=True, buffer=_cached_memory(3 * height * width))
        return turn_pixels(pixels, orientation)
    except ValueError as error:
        message = str(error)
    if message.startswith("Premature end of JPEG"):
        raise ImageRefused(Reason.TRUNCATED, message)
    if message.startswith("Corrupt JPEG data"):
        raise ImageRefused(Reason.CORRUPT, message)
    return None


def _cached_memory(size: int) -> NDArray[np.uint8]:
    """Return memory for `size` bytes or a few more that starts at no multiple of 32.

    At one, libjpeg-turbo writes rows past the cache (jdcolext-avx2.asm), and the next reader of the
    pixels waits.
    """
    memory = np.empty(size + 16, np.uint8)
    return memory[max(0, 16 - memory.__array_interface__["data"][0] % 32) :]


PREVIEW_SIDE = 112


def make_preview(image: Image.Image) -> bytes:
    """Return a small JPEG of an RGB image for an HTML page, of a few kilobytes."""
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=75)
    return sink.getvalue()
