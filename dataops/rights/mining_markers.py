"""Finds marks inside an image file that forbid training: IPTC's Data Mining property, C2PA's training assertion.

Both are text in metadata, so they are found without parsing XMP or verifying a C2PA manifest: a mark counts whoever
wrote it.
"""

import re
import struct
from collections.abc import Iterator

from dataops.rights.opt_out_headers import Signal

_MAX_SEGMENTS = 10_000
_XMP_WORD = b"DataMining"
_C2PA_WORD = b"training-mining"
# Matches plus:DataMining as an attribute, an element, or rdf:resource within the element; the prefix may differ.
# Source: IPTC Photo Metadata Standard 2023.1, "Data Mining"; values: ns.useplus.org, LDF vocabulary DMI-*.
_XMP_VALUE = re.compile(
    rb"DataMining\b[^A-Za-z]{1,40}(?:rdf:resource[^A-Za-z]{1,4})?[\w:/.]{0,80}?(DMI-[A-Z-]{1,60})", re.I
)
_ALLOWED = frozenset({b"DMI-ALLOWED", b"DMI-UNSPECIFIED"})
# Matches the name of an entry, and `use` with its value in the map of the entry; in CBOR one or two bytes separate them, in
# JSON a few more. Source: C2PA 1.4 section "Training and Data Mining"; CAWG Training and Data Mining Assertion 1.1.
_C2PA_ENTRY = re.compile(
    rb"(?:c2pa|cawg)\.(ai_training|ai_generative_training|data_mining)"
    rb"(?:(?!(?:c2pa|cawg)\.(?:ai_|data_)).){1,400}?use.{1,6}?(notAllowed|constrained|allowed)",
    re.DOTALL,
)


def find_mining_markers(data: bytes, kind: str) -> list[tuple[Signal, str]]:
    """Return (signal, detail) of each mark that forbids training; detail is IPTC's value, or C2PA's entry and value.

    Args:
        kind: format, one of dataops.images.kinds.KINDS. In JPEG, PNG and WebP only metadata is searched, in others all.
    """
    xmp, jumbf = _metadata(data, kind)
    found: list[tuple[Signal, str]] = []
    if _XMP_WORD in xmp:
        for value in dict.fromkeys(match[1].upper() for match in _XMP_VALUE.finditer(xmp)):
            if value not in _ALLOWED:
                found.append(("iptc", value.decode("ascii")))
    if _C2PA_WORD in jumbf:
        for name, use in dict.fromkeys(match.groups() for match in _C2PA_ENTRY.finditer(jumbf)):
            if use != b"allowed":
                found.append(("c2pa", f"{name.decode('ascii')} {use.decode('ascii')}"))
    return found


def _metadata(data: bytes, kind: str) -> tuple[bytes, bytes]:
    """Return the bytes that may contain XMP, and those that may contain C2PA."""
    if kind == "jpeg":
        segments = list(_jpeg_segments(data))
        xmp = b"".join(content for marker, content in segments if marker == 0xE1)
        return xmp, b"".join(_jumbf_content(content) for marker, content in segments if marker == 0xEB)
    if kind in ("png", "webp"):
        chunks = list(_png_chunks(data) if kind == "png" else _webp_chunks(data))
        xmp = b"".join(content for name, content in chunks if name in (b"iTXt", b"tEXt", b"XMP "))
        return xmp, b"".join(content for name, content in chunks if name in (b"caBX", b"C2PA"))
    return data, data


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, content) of the segments before the first scan. Source: ITU-T T.81, annex B."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] == 0xDA:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no length follows
            at += 2
        else:
            length = struct.unpack_from(">H", data, at + 2)[0]
            yield marker, data[at + 4 : at + 2 + length]
            at += 2 + length


def _jumbf_content(content: bytes) -> bytes:
    """Return the bytes of a JUMBF box in one segment. Source: ISO/IEC 19566-5, annex D.

    A box may be split over several segments, each of which repeats its header.
    """
    if content[:2] != b"JP" or len(content) < 8:
        return b""
    number = struct.unpack_from(">I", content, 4)[0]
    return content[8:] if number <= 1 else content[16:]


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    for _ in range(_MAX_SEGMENTS):
        if at + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        if name != b"IDAT":
            yield name, data[at + 8 : at + 8 + length]
        at += 12 + length


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(_MAX_SEGMENTS):
        if at + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, at)
        if name not in (b"VP8 ", b"VP8L", b"ANMF", b"ALPH"):
            yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
