"""Read which side of an image is up, and turn its pixels so that they are upright.

Cameras store the rows of the sensor, and in the EXIF block a number from 1 to 8: which side of the
rows was up. Viewers turn the image by it; img2dataset, torchvision and open_clip don't.

The number is that of IFD0: of the first EXIF segment of a JPEG, of the eXIf chunk of a PNG, and of
the EXIF chunk of a WebP. An AVIF has it as properties (irot and imir), and its EXIF does not count.
XMP is not read. A block that is malformed in any way means upright; no value is read but this one,
and no offset followed but that of IFD0.

Source: CIPA DC-008 (EXIF 3.0), sections 4.5.2 and 4.6.5 (tag 0x0112); TIFF 6.0, section 2; PNG, section 11.3.3.7 (eXIf);
    RFC 9649, section 2.7; ISO/IEC 23008-12, sections 6.5.10 and 6.5.12.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataops.images.structure import find_chunks, read_segments

MAX_ENTRIES = 1_000
"""Maximum number of entries of IFD0 that are read; cameras write about 20."""
ORIENTATION_TAG = 0x0112

_PREFIX = b"Exif\0\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_NUMBER_TYPES = {3: "H", 4: "I"}  # SHORT, as the standard has it, and LONG, which Pillow reads too
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(data: bytes, kind: str, opened: Image.Image | None = None) -> int:
    """Return the orientation of an image, 1 to 8; 1 is upright, and 5 to 8 exchange width and height.

    Args:
        kind: one of dataops.images.kinds.KINDS.
        opened: the image as Pillow opened it, which gives the properties of an AVIF as EXIF; needed for no other kind.

    Raises: TooComplex, for a JPEG.
    """
    if kind == "jpeg":
        return parse_orientation(read_segments(data).exif)
    if kind in ("png", "webp"):
        return parse_orientation(_find_exif(data, kind))
    if kind == "avif" and opened is not None:
        return parse_orientation(opened.info.get("exif", b""))
    return 1


def parse_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, of an EXIF block, with or without its prefix."""
    block = exif.removeprefix(_PREFIX).removeprefix(_PREFIX)
    order = _BYTE_ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    start = struct.unpack_from(order + "I", block, 4)[0]
    if start + 2 > len(block):
        return 1
    entries = min(struct.unpack_from(order + "H", block, start)[0], MAX_ENTRIES)
    for at in range(start + 2, min(start + 2 + 12 * entries, len(block) - 11), 12):
        tag, type_, number = struct.unpack_from(order + "HHI", block, at)
        if tag == ORIENTATION_TAG:
            found = struct.unpack_from(order + _NUMBER_TYPES.get(type_, "H"), block, at + 8)[0]
            return found if number == 1 and type_ in _NUMBER_TYPES and 1 <= found <= 8 else 1
    return 1


def _find_exif(data: bytes, kind: str) -> bytes:
    if kind == "webp" and (data[12:16] != b"VP8X" or not data[20:21] or not data[20] & 0x08):  # the flag for EXIF
        return b""
    wanted = b"eXIf" if kind == "png" else b"EXIF"
    return next((data[content] for name, content in find_chunks(data, kind) if name == wanted), b"")


def turn_image(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image upright, with the pixels of Pillow's `ImageOps.exif_transpose`."""
    return image.transpose(_TRANSPOSES[orientation]) if orientation in _TRANSPOSES else image


def turn_pixels(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return pixels (height, width) or (height, width, channels) upright."""
    if orientation not in _TRANSPOSES:
        return pixels
    import cv2  # takes 0.2 s, and few images are turned

    turned: Any = cv2.transpose(pixels) if orientation >= 5 else pixels
    flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's codes: 1 left and right, 0 top and bottom, -1 both
    return cv2.flip(turned, flips[orientation]) if orientation in flips else turned  # pyright: ignore[reportReturnType]
