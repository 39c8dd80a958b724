"""Read the kind, the size and the pixels of an image from its bytes.

Bytes from the web may be hostile: the kind is read from the bytes, never from a name or an HTTP header; the size in pixels
is checked before a pixel is decoded; and Pillow opens them as this kind only.
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
"""Default maximum number of pixels of a decoded image: 200 MB."""

KINDS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "avif": "AVIF"}
"""Kinds that are decoded, with Pillow's name of each. Of an animation, the first frame is decoded."""


class ImageRefused(ValueError):
    """Bytes that cannot be used as an image. `reason` is a stable class; the message is `reason: detail`."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """Kind and size of an image, read without decoding it."""

    kind: str
    width: int
    height: int
    mode: str = ""
    """Pillow's name of the pixel format: L, RGB, CMYK, ..."""


def sniff(data: bytes) -> str:
    """Return the kind of bytes by their signature: one of KINDS, a kind that is not decoded, or '' if unknown.

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
    return _sniff_other(data)


def _sniff_other(data: bytes) -> str:
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
    """Return kind and size of an image, if it is complete and small enough to be decoded.

    Args:
        max_area: in pixels; a decoder allocates width x height, however few the bytes are (a decompression bomb).

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
    """Return whether a PNG or AVIF has more than 8 bits per channel, which OpenCV would clip to white.

    Source: PNG section 11.2.2 (bit depth in IHDR); AV1-ISOBMFF section 2.3.3 (high_bitdepth in av1C).
    """
    if kind == "png":
        return data[24] == 16
    at = data.find(b"av1C", 0, 1 << 16) if kind == "avif" else -1
    return 0 <= at < len(data) - 6 and bool(data[at + 6] & 0x40)


def is_truncated(data: bytes, kind: str) -> bool:
    """Return whether bytes are missing by the format's end marker or length; False if the format has neither.

    Decoders fill missing pixels with grey and report success. No pixel is decoded here.

    Source: ITU-T T.81 annex B (EOI), PNG section 11.2.5 (IEND), RFC 9649 (the RIFF length).
    """
    if kind == "jpeg":
        scan = _first_scan(data)  # after the metadata, where a thumbnail may have its own EOI
        return scan is None or data.rfind(b"\xff\xd9", scan) < 0
    if kind == "png":
        return data.rfind(b"IEND\xaeB`\x82") < 0
    if kind == "webp":
        return len(data) < 8 + struct.unpack_from("<I", data, 4)[0]
    return False


def _first_scan(data: bytes) -> int | None:
    """Return the offset of a JPEG's first SOS segment, or None if there is none."""
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
    """Decode an image as RGB, with transparency on white.

    Raises: ImageRefused with `corrupt` if any part of it cannot be decoded.
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
    """Decode an image as RGB (height, width, 3), with transparency on white; of an animation, the first frame.

    JPEGs are decoded by libjpeg-turbo directly, which also reports damage; the pixels equal those of `decode`.

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
    """Return None if Pillow must decode it: CMYK, unsupported kinds of JPEG, or a warning that affects no pixel."""
    try:
        header: Any = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    height, width, space, _ = header
    if width * height > max_area:
        raise ImageRefused("too_many_pixels", f"{width}x{height} pixels")
    if not data.endswith(b"\xff\xd9") and is_truncated(data, "jpeg"):  # the decoder reports bytes missing inside
        raise ImageRefused("truncated", "the jpeg ends early")
    if space not in ("YCbCr", "Gray", "RGB"):
        return None
    try:
        return simplejpeg.decode_jpeg(data, strict=True, buffer=_cached_memory(3 * height * width))
    except ValueError as error:
        message = str(error)
    if message.startswith("Premature end of JPEG"):
        raise ImageRefused("truncated", message)
    if message.startswith("Corrupt JPEG data"):
        raise ImageRefused("corrupt", message)
    return None


def _cached_memory(size: int) -> NDArray[np.uint8]:
    """Return memory for `size` bytes or a few more that starts at no multiple of 32.

    At one, libjpeg-turbo writes rows past the cache (jdcolext-avx2.asm), and the next reader of the pixels waits.
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
