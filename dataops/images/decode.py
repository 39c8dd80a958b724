"""What can be said of an image from its bytes: its kind, its size before it is decoded, its pixels.

Bytes from the web are hostile until shown otherwise: the kind is read from the bytes and never from a name or header,
the size in pixels is known before a pixel is decoded, and Pillow opens them as that kind only.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

MAX_AREA = 1 << 26
"""Pixels of a picture that is decoded, unless the caller says otherwise: 200 MB."""

KINDS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "avif": "AVIF"}
"""The kinds that are decoded, with Pillow's name of each. The first frame of an animation stands for it."""


class ImageRefused(ValueError):
    """Bytes that are not taken as an image. `reason` is a stable class; the text is `reason: detail`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What the first bytes say."""

    kind: str
    width: int
    height: int
    mode: str = ""
    """Pillow's name of what a pixel is: L, RGB, CMYK, ..."""


def sniff(data: bytes) -> str:
    """The kind of some bytes by their signature: one of KINDS, a kind that is named and refused, or ''.

    Source: WHATWG MIME Sniffing, section 6.1 (images) and 7.1 (HTML); ISO/IEC 14496-12 brands for AVIF and HEIC.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data.startswith(b"RIFF") and data[8:14] == b"WEBPVP":
        return "webp"
    if data.startswith(b"BM"):
        return "bmp"
    if data[4:8] == b"ftyp":
        return "avif" if data[8:12] in (b"avif", b"avis") else "heif"
    return _sniff_refused(data)


def _sniff_refused(data: bytes) -> str:
    for signature, kind in (
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"\0\0\1\0", "ico"),
        (b"\0\0\0\x0cjP", "jpeg2000"),
        (b"\xff\x4f\xff\x51", "jpeg2000"),
        (b"8BPS", "psd"),
        (b"%PDF", "pdf"),
        (b"\x1f\x8b", "gzip"),
    ):
        if data.startswith(signature):
            return kind
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<title")):
        return "html"
    if b"<svg" in head:
        return "svg"
    return "html" if head.startswith(b"<") else ""


_NOT_IMAGES = frozenset({"", "html", "pdf", "gzip"})


def read_header(data: bytes, max_area: float = float("inf")) -> Header:
    """Kind and size of an image that is whole and small enough to be decoded.

    Args:
        max_area: pixels; decoding allocates by width and height, whatever the bytes weigh (a decompression bomb).

    Raises: ImageRefused with not_an_image, unsupported_format, truncated, decode or too_many_pixels.
    """
    kind = sniff(data)
    if kind in _NOT_IMAGES:
        raise ImageRefused("not_an_image", f"the bytes look like {kind or 'no known format'}")
    if kind not in KINDS:
        raise ImageRefused("unsupported_format", kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_area is the limit here
            with Image.open(io.BytesIO(data), formats=[KINDS[kind]]) as image:
                (width, height), mode = image.size, image.mode
    except Image.DecompressionBombError:
        raise ImageRefused("too_many_pixels", "more pixels than Pillow opens") from None
    except Exception as error:  # Pillow's parsers let many types escape on hostile bytes
        raise ImageRefused("decode", f"unreadable {kind} header ({type(error).__name__})") from None
    if width * height > max_area:
        raise ImageRefused("too_many_pixels", f"{width}x{height} pixels")
    if is_deep(data, kind):
        raise ImageRefused("unsupported_format", f"{kind} of more than 8 bits a channel")
    if is_truncated(data, kind):
        raise ImageRefused("truncated", f"the {kind} ends early")
    return Header(kind, width, height, mode)


def is_deep(data: bytes, kind: str) -> bool:
    """Whether a PNG or AVIF has more than 8 bits a channel, which OpenCV would write as white where it cuts them.

    Source: PNG section 11.2.2 (bit depth in IHDR); AV1-ISOBMFF section 2.3.3 (high_bitdepth in av1C).
    """
    if kind == "png":
        return data[24] == 16
    at = data.find(b"av1C", 0, 1 << 16) if kind == "avif" else -1
    return 0 <= at < len(data) - 6 and bool(data[at + 6] & 0x40)


def is_truncated(data: bytes, kind: str) -> bool:
    """Whether the format's own end mark or length says that bytes are missing; False where the format has none.

    Decoders fill what is missing with grey and call it success. No pixel is decoded here.

    Source: ITU-T T.81 annex B (EOI), PNG section 11.2.5 (IEND), RFC 9649 (the RIFF length).
    """
    if kind == "jpeg":
        scan = _first_scan(data)  # behind all metadata, where a thumbnail may hold an EOI of its own
        return scan is None or data.rfind(b"\xff\xd9", scan) < 0
    if kind == "png":
        return data.rfind(b"IEND\xaeB`\x82") < 0
    if kind == "webp":
        return len(data) < 8 + struct.unpack_from("<I", data, 4)[0]
    return False


def _first_scan(data: bytes) -> int | None:
    """Where a JPEG's first SOS segment starts, or None where there is none."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xDA:
            return at
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no length follows
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def decode(data: bytes) -> Image.Image:
    """All pixels of an image as RGB, transparency on white.

    Raises: ImageRefused with `corrupt` when any part of it cannot be decoded.
    """
    kind = sniff(data)
    if kind not in KINDS:
        raise ImageRefused("corrupt", f"the bytes look like {kind or 'no known format'}")
    try:
        with Image.open(io.BytesIO(data), formats=[KINDS[kind]]) as image:
            image.load()
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
                return Image.alpha_composite(white, rgba).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders let many types escape on hostile bytes
        raise ImageRefused("corrupt", f"{kind} ({type(error).__name__})") from None


def decode_pixels(data: bytes, max_area: float = MAX_AREA) -> NDArray[np.uint8]:
    """All pixels of an image as RGB (height, width, 3), transparency on white; of an animation, the first frame.

    A JPEG goes to libjpeg-turbo itself, which also says where it had to guess; the pixels are those of `decode`.

    Raises: ImageRefused with not_an_image, unsupported_format, truncated, too_many_pixels or corrupt.
    """
    if sniff(data) == "jpeg" and (found := _jpeg_pixels(data, max_area)) is not None:
        return found
    try:
        read_header(data, max_area)
    except ImageRefused as refused:
        if refused.reason != "decode":
            raise
        raise ImageRefused("corrupt", str(refused)) from None
    return np.asarray(decode(data))


def _jpeg_pixels(data: bytes, max_area: float) -> NDArray[np.uint8] | None:
    """None where it is not the decoder's: CMYK, kinds of JPEG that it does not know, warnings of what harms no pixel."""
    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    height, width, space, _ = header
    if width * height > max_area:
        raise ImageRefused("too_many_pixels", f"{width}x{height} pixels")
    if not data.endswith(b"\xff\xd9") and is_truncated(data, "jpeg"):  # what is missing inside, the decoder will tell
        raise ImageRefused("truncated", "the jpeg ends early")
    if space not in ("YCbCr", "Gray", "RGB"):
        return None
    try:
        return simplejpeg.decode_jpeg(data, strict=True, buffer=_cached_memory(3 * height * width))
    except ValueError as error:
        said = str(error)
    if said.startswith("Premature end of JPEG"):
        raise ImageRefused("truncated", said)
    if said.startswith("Corrupt JPEG data"):
        raise ImageRefused("corrupt", said)
    return None


def _cached_memory(size: int) -> NDArray[np.uint8]:
    """Memory, of that many bytes or some more, for pixels that are looked at next, of which no address is a multiple of 32.

    Where one is, libjpeg-turbo writes past the cache (jdcolext-avx2.asm), and what looks at the pixels waits for memory.
    """
    memory = np.empty(size + 16, np.uint8)
    return memory[max(0, 16 - memory.__array_interface__["data"][0] % 32) :]


PREVIEW_SIDE = 112


def make_preview(image: Image.Image) -> bytes:
    """A small JPEG of an RGB image, for a page: a few thousand bytes."""
    small = image.copy()
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=75)
    return sink.getvalue()
