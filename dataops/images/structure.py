"""Bound what an image's structure costs a decoder: scans, segments, chunks, blocks and metadata, before it is opened.

The number of pixels does not bound the time of a decoder. A JPEG of 20 MB may hold 200,000 scans,
each of which passes over all pixels; a PNG 1.6 million empty chunks, and a GIF as many comments,
which Pillow reads one by one in Python; an EXIF block of 64 KB may let Pillow copy 350 MB. Each
check here is linear in the bytes, and its steps in Python are limited.

Metadata is cut out of what Pillow gets (`cut_metadata`): no pixel depends on it, and nothing then
parses it.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SCANS = 500
"""Maximum number of scans of a JPEG. Source: libjpeg-turbo's fuzzers have the same limit; encoders write about ten."""
MAX_SCANNED_PIXELS = 1 << 31
"""Maximum number of pixels of a JPEG times its scans, if it has more than FEW_SCANS of them."""
FEW_SCANS = 20
MAX_SEGMENTS = 2_000
"""Maximum number of segments of a JPEG before its first scan, and of blocks of a GIF before its first image."""
MAX_PADDING = 1 << 20
"""Maximum number of bytes between the segments of a JPEG or the blocks of a GIF: fill bytes and junk."""
MAX_TABLES = 1 << 18
"""Maximum number of bytes of the segments of a JPEG before its first scan that are not metadata; real ones have 1 KB."""
MAX_CHUNKS = 20_000
"""Maximum number of chunks of a PNG: 20 MB of IDAT chunks of a kilobyte."""
MAX_SUB_BLOCKS = 100_000
"""Maximum number of sub-blocks in the extensions before a GIF's first image: 25 MB of full ones."""
MAX_RLE_PIXELS, MAX_RLE_BYTES = 1 << 24, 1 << 22
"""Maximum size of a run-length encoded BMP, which Pillow decodes in Python."""
MAX_AVIF_ITEMS = 2_000
"""Maximum number of items of an AVIF: decoders search them one after the other for each reference."""
MAX_AVIF_META = 4 << 20
"""Maximum size of an AVIF's `meta` box, in bytes: descriptions of items, and the colour profile."""


class TooComplex(ValueError):
    """An image whose structure would cost a decoder too much. The message names what exceeds its limit."""


@dataclass(frozen=True)
class JpegSegments:
    """What comes before the pixels of a JPEG."""

    first_scan: int | None
    """Offset of the first SOS segment; None if there is none."""
    height: int
    width: int
    """Size in pixels; 0 if there is no frame."""
    head: bytes
    """All segments before the first scan that are not metadata."""
    exif: bytes
    """The first EXIF block, or nothing."""
    is_cut: bool = False
    """True if `head` lacks bytes that stand before the first scan."""


_MARKER = re.compile(rb"\xff[^\x00\xff]")  # behind fill bytes; no stuffed byte
_SCAN_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in a scan: no restart
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ENDS = _FRAMES | {0xD8, 0xD9}
"""What follows the scans of an image: its end, or the start of another one if it was cut."""
_JPEG_TABLES = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
"""Segments that decoders need: also JFIF and Adobe (APP0 and APP14), which name the colour space."""
_PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def cut_metadata(data: bytes, kind: str) -> bytes:
    """Return an image with the same pixels and without the metadata that Pillow would parse.

    Bytes that are no whole image are returned: their decoder refuses them. Of an APNG and of other
    animations in PNG, the default image is left. EXIF is removed too (orientation.py reads it).

    Args:
        kind: its format, one of dataops.images.kinds.KINDS.

    Raises: TooComplex.
    """
    if kind == "jpeg":
        return _cut_jpeg(data)
    if kind == "png":
        return _cut_png(data)
    if kind == "gif":
        return _cut_gif(data)
    if kind == "bmp":
        _check_bmp(data)
    elif kind in ("avif", "heif"):  # one container; Pillow opens some of its brands
        return _cut_avif(data)
    return data


def _cut_jpeg(data: bytes) -> bytes:
    found = read_segments(data)
    if found.first_scan is None:
        return found.head
    check_scans(data, found.height, found.width, found.first_scan)
    return found.head + data[found.first_scan :] if found.is_cut else data


def read_segments(data: bytes) -> JpegSegments:
    """Read the segments of a JPEG before its first scan, as libjpeg does: junk between them is skipped.

    Raises: TooComplex.

    Source: ITU-T T.81 section B.1.1; libjpeg's next_marker.
    """
    kept, at, padding, size, first_scan, exif = [data[:2]], 2, 0, (0, 0), None, b""
    for _ in range(MAX_SEGMENTS):
        latest = at + MAX_PADDING - padding
        found = _MARKER.search(data, at, latest + 2)
        if found is None and len(data) > latest + 2:
            raise TooComplex(f"more than {MAX_PADDING:,} fill bytes between the segments of the jpeg")
        if found is None or found[0][1] in (0xD8, 0xD9):  # another image, or the end
            break
        marker, end = found[0][1], found.end()
        padding += found.start() - at
        if marker == 0xDA:
            first_scan = end - 2
            break
        at = end
        if marker in _STANDALONE:
            continue
        if end + 2 > len(data):
            break
        at += struct.unpack_from(">H", data, end)[0]
        if marker in _FRAMES and end + 7 <= len(data):
            size = struct.unpack_from(">HH", data, end + 3)
        if marker == 0xE1 and not exif and data.startswith(b"Exif\0\0", end + 2):
            exif = data[end + 2 : at]
        if marker in _JPEG_TABLES:
            kept.append(data[end - 2 : at])
    else:
        raise TooComplex(f"more than {MAX_SEGMENTS:,} segments before the pixels of the jpeg")
    head = b"".join(kept)
    if len(head) > MAX_TABLES:
        raise TooComplex(f"{len(head):,} bytes of tables in the jpeg")
    return JpegSegments(first_scan, *size, head, exif, len(head) != first_scan)


def check_scans(data: bytes, height: int, width: int, first_scan: int | None = None) -> None:
    """Check the number of scans of a JPEG: each passes over all pixels, also if it has no data.

    Args:
        first_scan: offset of the first scan; without it, the segments before it are read.

    Raises: TooComplex.
    """
    area = -(-height // 32) * -(-width // 32) * 1024  # a scan works on units of up to 32 x 32
    allowed = min(MAX_SCANS, max(FEW_SCANS, MAX_SCANNED_PIXELS // max(area, 1)))
    first = read_segments(data).first_scan if first_scan is None else first_scan
    if first is not None and read_scans(data, first, allowed).number > allowed:
        raise TooComplex(f"more than {allowed} scans of {width}x{height} pixels in the jpeg")


@dataclass(frozen=True)
class JpegScans:
    """What comes after the head of a JPEG."""

    number: int
    """Number of scans."""
    is_whole: bool
    """True if the end of the image follows them."""


def read_scans(data: bytes, first_scan: int, enough: int = MAX_SCANS) -> JpegScans:
    """Read the markers from the first scan up to the end of the image, as libjpeg does.

    What ends a thumbnail in a segment between the scans, or another image behind one that was cut,
    does not count.

    Args:
        enough: no more scans than these are counted.

    Raises: TooComplex.
    """
    scans, at = 0, first_scan
    for _ in range(MAX_SCANS * 20):  # a few segments of tables for each scan
        found = _SCAN_MARKER.search(data, at)
        if found is None:
            return JpegScans(scans, is_whole=False)
        marker, at = found[0][1], found.end()
        if marker in _ENDS:
            return JpegScans(scans, marker == 0xD9)
        if marker < 0xC0:  # none that libjpeg knows
            continue
        scans += marker == 0xDA
        if scans > enough or at + 2 > len(data):
            return JpegScans(scans, is_whole=False)
        at += struct.unpack_from(">H", data, at)[0]
    raise TooComplex(f"more than {MAX_SCANS * 20:,} segments between the scans of the jpeg")


def find_chunks(data: bytes, kind: str) -> Iterator[tuple[bytes, slice]]:
    """Yield the name of each chunk of a PNG or WebP file, and where its content is; of a damaged file, what is found.

    Source: PNG, section 5.3; RFC 9649, section 2.3.
    """
    is_png = kind == "png"
    at = 8 if is_png else 12
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            return
        first, second = data[at : at + 4], data[at + 4 : at + 8]
        name, length = (second, int.from_bytes(first)) if is_png else (first, int.from_bytes(second, "little"))
        yield name, slice(at + 8, at + 8 + length)
        at += 12 + length if is_png else 8 + length + length % 2


def _cut_png(data: bytes) -> bytes:
    at, kept, is_cut = 8, [data[:8]], False
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name in _PNG_PIXELS:
            kept.append(data[at:end])
        else:
            is_cut = True
        at = end
        if name == b"IEND":
            break
    else:
        raise TooComplex(f"more than {MAX_CHUNKS:,} chunks in the png")
    return b"".join(kept) if is_cut else data


_GIF_BLOCK = re.compile(rb"[!,;]")


def _cut_gif(data: bytes) -> bytes:
    if len(data) < 13:
        return data
    start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    kept, at, sub_blocks, padding = [data[:start]], start, 0, 0
    for _ in range(MAX_SEGMENTS):
        found = _GIF_BLOCK.search(data, at)
        if found is None:
            return data[:start]
        padding += found.start() - at
        if padding > MAX_PADDING:
            raise TooComplex(f"more than {MAX_PADDING} bytes between the blocks of the gif")
        at = found.start()
        if found[0] != b"!":
            head = b"".join(kept)
            return data if data.startswith(head) and len(head) == at else head + data[at:]
        begin, at = at, at + 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            sub_blocks += 1
            if sub_blocks > MAX_SUB_BLOCKS:
                raise TooComplex(f"more than {MAX_SUB_BLOCKS:,} sub-blocks before the image of the gif")
        at += 1
        if data[begin + 1 : begin + 2] == b"\xf9":  # transparency
            block = bytearray(data[begin:at])
            if len(block) > 3:
                block[3] &= 0b1110_0011  # of what follows the first frame, Pillow would make an image at once
            kept.append(bytes(block))
    raise TooComplex(f"more than {MAX_SEGMENTS:,} blocks before the image of the gif")


def _check_bmp(data: bytes) -> None:
    if len(data) < 34 or struct.unpack_from("<I", data, 14)[0] < 40:
        return
    width, height, compression = (*struct.unpack_from("<ii", data, 18), struct.unpack_from("<I", data, 30)[0])
    if compression in (1, 2) and (abs(width * height) > MAX_RLE_PIXELS or len(data) > MAX_RLE_BYTES):
        raise TooComplex(f"a run-length encoded bmp of {abs(width * height):,} pixels and {len(data):,} bytes")


_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)  # the item's number has 16 or 32 bits


def _cut_avif(data: bytes) -> bytes:
    """Return an AVIF whose EXIF items are of no known type, since Pillow parses them when it opens an AVIF."""
    if (items := data.count(b"infe")) > MAX_AVIF_ITEMS:
        raise TooComplex(f"{items:,} items in the avif")
    at = 0
    for _ in range(MAX_SEGMENTS):
        if at + 8 > len(data):
            break
        size, name = struct.unpack_from(">I4s", data, at)
        if size == 1 and at + 16 <= len(data):
            size = struct.unpack_from(">Q", data, at + 8)[0]
        elif size == 0:  # it extends to the end
            size = len(data) - at
        if name == b"meta" and size > MAX_AVIF_META:
            raise TooComplex(f"a meta box of {size:,} bytes in the avif")
        if size < 8:
            break
        at += size
    else:
        raise TooComplex(f"more than {MAX_SEGMENTS:,} boxes in the avif")
    return _EXIF_ITEM.sub(rb"\1none", data)
