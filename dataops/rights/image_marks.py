"""Find marks inside an image file: the signals iptc (its Data Mining property) and c2pa (its training assertion).

Both are text in metadata, so they are found without parsing XMP or verifying a C2PA manifest: a
mark counts whoever wrote it. The time is linear in the size of the file, and about 50 ms for 20 MB.
"""

import re
import struct
from collections.abc import Iterator
from itertools import islice, zip_longest

from dataops.images.structure import find_chunks
from dataops.rights.signals import Finding, Signal, Statement

_MAX_SEGMENTS = 10_000
MAX_MARKERS = 1_000
"""Maximum number of properties and of entries that are read of one file; a file with more counts as marked."""
_XMP_WORD = b"DataMining"
_C2PA_WORD = b"training-mining"
# Matches plus:DataMining as an attribute, an element, or with the value in an element or attribute within.
# Source: IPTC Photo Metadata Standard 2023.1, "Data Mining"; values: ns.useplus.org, LDF vocabulary DMI-*.
_XMP_VALUE = re.compile(rb"DataMining\b.{1,300}?((?i:DMI-[A-Z-]{1,60}))", re.DOTALL)
_ALLOWED = frozenset({b"DMI-ALLOWED", b"DMI-UNSPECIFIED"})
# Source: C2PA 1.4 section "Training and Data Mining"; CAWG Training and Data Mining Assertion 1.1.
_C2PA_ENTRY = re.compile(rb"(?:c2pa|cawg)\.(ai_training|ai_generative_training|data_mining|ai_|data_)")
# Matches `use` with its value in the map of an entry; in CBOR one or two bytes separate them, in JSON a few more.
_C2PA_USE = re.compile(rb"use.{1,6}?(notAllowed|constrained|allowed)", re.DOTALL)
_C2PA_ENTRY_BYTES = 420
_C2PA_TRAINING = frozenset({b"ai_training", b"ai_generative_training", b"data_mining"})
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")


def find_iptc(statement: Statement) -> Iterator[Finding]:
    """Yield each value of IPTC's property once. In JPEG, PNG and WebP only metadata is searched, in other formats all."""
    xmp, _ = _metadata(statement.value, statement.name)
    if xmp.count(_XMP_WORD) > MAX_MARKERS:
        yield Finding(False, f"over {MAX_MARKERS} properties")
        return
    for value in dict.fromkeys(match[1].upper() for match in _XMP_VALUE.finditer(xmp)):
        yield Finding(value in _ALLOWED, value.decode("ascii"))


def find_c2pa(statement: Statement) -> Iterator[Finding]:
    """Yield each training entry of a C2PA assertion with its value, once."""
    _, jumbf = _metadata(statement.value, statement.name)
    if _C2PA_WORD not in jumbf:
        return
    entries = list(islice(_C2PA_ENTRY.finditer(jumbf), MAX_MARKERS + 1))
    if len(entries) > MAX_MARKERS:
        yield Finding(False, f"over {MAX_MARKERS} entries")
        return
    found: dict[Finding, None] = {}
    for entry, after in zip_longest(entries, entries[1:]):
        end = after.start() if after else len(jumbf)
        use = _C2PA_USE.search(jumbf, entry.end(), min(end, entry.end() + _C2PA_ENTRY_BYTES))
        if entry[1] in _C2PA_TRAINING and use:
            found[Finding(use[1] == b"allowed", f"{entry[1].decode('ascii')} {use[1].decode('ascii')}")] = None
    yield from found


def _metadata(data: bytes, kind: str) -> tuple[bytes, bytes]:
    """Return the bytes that may contain XMP, and those that may contain C2PA."""
    if kind == "jpeg":
        segments = list(_jpeg_segments(data))
        xmp = b"".join(content for marker, content in segments if marker == 0xE1)
        return xmp, b"".join(_jumbf_content(content) for marker, content in segments if marker == 0xEB)
    if kind in ("png", "webp"):
        chunks = list(islice(find_chunks(data, kind), _MAX_SEGMENTS))
        xmp = b"".join(data[content] for name, content in chunks if name in (b"iTXt", b"tEXt", b"XMP "))
        return xmp, b"".join(data[content] for name, content in chunks if name in (b"caBX", b"C2PA"))
    return data, data


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, content) of the segments before the first scan; bytes between segments are skipped, as in libjpeg.

    Source: ITU-T T.81, annex B.
    """
    at = 2
    for _ in range(_MAX_SEGMENTS):
        found = _JPEG_MARKER.search(data, at)
        if not found or data[found.end() - 1] in (0xD9, 0xDA):
            return
        marker, at = data[found.end() - 1], found.end()
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no length follows
            continue
        if at + 2 > len(data):
            return
        length = max(2, struct.unpack_from(">H", data, at)[0])
        yield marker, data[at + 2 : at + length]
        at += length


def _jumbf_content(content: bytes) -> bytes:
    """Return the bytes of a JUMBF box in one segment. Source: ISO/IEC 19566-5, annex D.

    A box may be split over several segments, each of which repeats its header.
    """
    if content[:2] != b"JP" or len(content) < 8:
        return b""
    number = struct.unpack_from(">I", content, 4)[0]
    return content[8:] if number <= 1 else content[16:]


IPTC = Signal(name="iptc", reads={"image": ()}, find=find_iptc, order=50)
C2PA = Signal(name="c2pa", reads={"image": ()}, find=find_c2pa, order=51)
