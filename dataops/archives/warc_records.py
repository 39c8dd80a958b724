"""Reads WARC records from a stream in one pass: gzip, zstd or lz4 (a member per record, or one for the file), or plain.

A damaged record is skipped. dataops.archives.record_runs parses the records.
"""

import re
from collections.abc import Iterator

from dataops.archives.compression import GZIP, LZ4, ZSTD, Codec, find_codec
from dataops.archives.inner_archives import MAX_HEAD
from dataops.archives.members import Chunk, inflate_members, starts_record
from dataops.archives.record_runs import VERSIONS, ChunkRun, StreamedRecord, new_record, read_run
from dataops.archives.stream import ByteStream, Damage, Window
from dataops.errors import UnusableSource

MAX_DAMAGES = 1000
"""Number of unreadable records above which a file counts as unreadable."""

_CHUNK = 1 << 20
_MAX_SEARCH = 1 << 22  # bytes in which the first record is searched for, if the stream does not start with one
_MEMBER_START = 1024
_BLANK = 32  # bytes at the start of a file, of which some may be blank
_CONTENT_LENGTH = b"\r\nContent-Length: "  # the spelling of all known producers
_PLAIN_START = re.compile(rb"\nWARC[/-]")  # the start of a record, or the second line of one
_HINTS = (
    (b"PK\x03\x04", "this is a ZIP file, such as a WACZ; `unzip FILE 'archive/*'` unpacks the WARC files in it"),
    (b"filedesc://", "this is an ARC file; `warcio recompress FILE.arc.gz FILE.warc.gz` makes a WARC file of it"),
    (b"BZh", "this is a bzip2 file; `bunzip2 FILE` makes a plain file of it"),
    (b"\xfd7zXZ\0", "this is an xz file; `unxz FILE` makes a plain file of it"),
    (b"7z\xbc\xaf\x27\x1c", "this is a 7z file; `7z x FILE` unpacks it"),
)


def read_records(stream: ByteStream, max_bytes: int) -> Iterator[StreamedRecord | Damage]:
    """Yield the records in their order, and a Damage for each record that cannot be used.

    Reasons: `truncated` (the stream ends within the record), `bad_record` (a broken member, or no record where one is
    expected), `bad_length` (no Content-Length, or a wrong one), `too_large` (a wrong length of more than `max_bytes`).

    A stream without any content has no records.

    Raises: SourceError if there is content but no readable record, or if there are more than MAX_DAMAGES damages.
    """
    window = Window(stream)
    hint = _hint(window)
    if hint:
        raise UnusableSource(f"no WARC record: {hint}, at byte 0")
    chunks = _chunks(window)
    start = next(chunks, None)
    damages, first_damage, found_any = 0, 0, False
    while start is not None:
        if isinstance(start, Chunk) and start.first and start.last:
            record = _read_simple_record(start)
            if record is not None and len(record.body or b"") <= max_bytes:
                found_any = True
                yield record
                start = next(chunks, None)
                continue
        run = ChunkRun(start, chunks, window)
        # The only record of a file may be cut off.
        found_any = found_any or run.data[:_BLANK].lstrip().startswith(VERSIONS)
        for found in (start,) if isinstance(start, Damage) else read_run(run, max_bytes):
            if isinstance(found, StreamedRecord):
                found_any = True
            else:
                damages += 1
                first_damage = found.offset if damages == 1 else first_damage
                if damages > MAX_DAMAGES:
                    raise UnusableSource(f"over {MAX_DAMAGES} unreadable records, at byte {found.offset}")
            yield found
        start = run.next
    if damages and not found_any:
        raise UnusableSource(f"no WARC record, at byte {first_damage}")


def _hint(window: Window) -> str:
    """Return what a file is that has no WARC records, if its first bytes show it; else ''."""
    start = window.at(0, _MEMBER_START, _MEMBER_START)
    if start.startswith(GZIP.magic):
        try:
            start = GZIP.new_inflater().decompress(start, 16)
        except GZIP.error:
            return ""
    return next((hint for magic, hint in _HINTS if start.startswith(magic)), "")


def _read_simple_record(chunk: Chunk) -> StreamedRecord | None:
    """Return the record of a chunk that is exactly one record in the usual form; None for any other chunk.

    Nearly all chunks have that form. `read_run` returns the same for them, more slowly.
    """
    data = chunk.data
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    head = data[:end]
    value_start = head.find(_CONTENT_LENGTH) + len(_CONTENT_LENGTH)
    length = head[value_start:]  # usually the last field
    if not length.isdigit():
        length = length.partition(b"\r\n")[0]
    if end < 0 or value_start < len(_CONTENT_LENGTH) or not length.isdigit() or len(length) > 18:
        return None
    if end + 4 + int(length) + 4 != len(data) or not data.endswith(b"\r\n\r\n"):
        return None
    if not head.startswith(VERSIONS) or b"\n\n" in head or b"\n\r\n" in head:
        return None
    return new_record((chunk.offset, head, memoryview(data)[end + 4 : -4]))


def _chunks(window: Window) -> Iterator[Chunk | Damage]:
    codec, at = find_codec(window)
    if codec is None:
        codec, at = _search_codec(window, at)
    if codec is None:
        return _plain_chunks(window)
    return inflate_members(window, codec, at)


def _search_codec(window: Window, at: int) -> tuple[Codec | None, int]:
    """Return the codec of the first member that starts a record, and the position of the first member.

    It is None for a plain file. The start of the file is damaged if it is neither a member nor a record.
    """
    start = window.at(at, _MAX_SEARCH, 16)
    if start.startswith(b"WARC/") or not start:
        return None, at
    start = window.at(at, _MAX_SEARCH, _MAX_SEARCH)
    plain = _PLAIN_START.search(start)
    end = plain.start() if plain else len(start)
    found = []
    for codec in (GZIP, ZSTD, LZ4):
        for member in codec.start.finditer(start, 0, end):
            if starts_record(codec, start[member.start() : member.start() + _MEMBER_START]):
                found.append((member.start(), codec))
                break
    # `inflate_members` reports the damaged bytes before the first member.
    return (min(found, key=lambda item: item[0])[1] if found else None), at


def _plain_chunks(window: Window) -> Iterator[Chunk]:
    at = 0
    while data := window.at(at, _CHUNK):
        yield Chunk(data, at, 1, first=False, last=False)
        at += len(data)
        window.keep = at
