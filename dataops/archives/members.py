"""Inflates a compressed stream of many members in one pass, and skips damaged members.

After a damaged member, reading continues at the next member that starts a WARC record.
"""

from collections.abc import Generator, Iterator
from functools import partial
from typing import NamedTuple

from dataops.archives.compression import GZIP, Codec, Inflater, skippable_size
from dataops.archives.inner_archives import inner_archive
from dataops.archives.stream import Damage, Window

_INPUT = 1 << 13  # bytes per call of the inflater, which copies the input that it leaves unused
_OUTPUT = 1 << 16  # bytes of output per call, allocated in advance (1 MiB took twice the time)
_CHUNK = 1 << 20  # bytes that are joined into one chunk: nearly all members then are one chunk
_SEARCHABLE = 1 << 22  # bytes of a member that are kept to search for the next member if this one is damaged
_MAX_PADDING = 512  # zeros between members; more of them are content that was lost
_MEMBER_START = 1024  # bytes that show whether a member starts a record
_RECORD_START = 1 << 14  # bytes of a damaged record that show whether it holds an archive
_MAX_RATIO = 1100
"""Maximum ratio of all content to its compressed size, beyond _FREE_OUTPUT bytes; gzip cannot exceed 1032, zstd can."""
_FREE_OUTPUT = 64 << 20


class Chunk(NamedTuple):
    """Consecutive bytes of decompressed content."""

    data: bytes
    offset: int
    """Position in the stream: of the member, or of the first byte if the stream is not compressed."""
    step: int
    """Distance in the stream between two bytes of `data`: 1 if the stream is not compressed, else 0."""
    first: bool
    """True if a member starts here."""
    last: bool
    """True if the member ends here, and was found to be undamaged."""


_new_chunk = partial(tuple.__new__, Chunk)  # takes all fields; less than half the time of Chunk(...)


def inflate_members(window: Window, codec: Codec = GZIP, start: int = 0) -> Iterator[Chunk | Damage]:
    """Yield the content of the members in their order, and a Damage for each broken member."""
    at: int | None = start
    total = 0
    new_inflater, magic, error = codec.new_inflater, codec.magic, codec.error
    while at is not None and (data := window.at(at, _INPUT, 4)):
        window.keep = at
        if not data.startswith(magic):
            if codec is not GZIP and (size := skippable_size(window, at)):
                at += size
                continue
            if not _is_padding(window, codec, at):
                yield Damage(_position_of_damage(window, codec, at), "bad_record")
            at = _next_member(window, codec, at + 1)
            continue
        inflater = new_inflater()
        try:
            content = inflater.decompress(data, _OUTPUT)
        except error:
            yield Damage(at, "bad_record")
            at = _next_member(window, codec, at + 1)
            continue
        total += len(content)
        if inflater.eof:
            if content:
                yield _new_chunk((content, at, 0, True, True))
            at += len(data) - len(inflater.unused_data or b"")
        else:
            at, total = yield from _rest(window, codec, inflater, at, at + len(data), content, total)


def _is_padding(window: Window, codec: Codec, at: int) -> bool:
    """Return whether only zeros stand between a position and the next member or the end."""
    padding = window.at(at, _MAX_PADDING + len(codec.magic), _MAX_PADDING)
    following = padding.lstrip(b"\0")
    return (following.startswith(codec.magic) or not following) and len(padding) - len(following) <= _MAX_PADDING


def _position_of_damage(window: Window, codec: Codec, at: int) -> int:
    """Return where the bytes are damaged that are no member: at a position, or after the skippable frame there."""
    size = 0 if codec is GZIP else skippable_size(window, at, check=False) or 0
    return at if codec.start.search(window.at(at, size)) else at + size


def _rest(
    window: Window, codec: Codec, inflater: Inflater, start: int, at: int, data: bytes, total: int
) -> Generator[Chunk | Damage, None, tuple[int | None, int]]:
    """Yield the chunks of a member that is longer than its first input block.

    Args:
        total: size of all content until now, in bytes.

    Returns: the position of the next member, None at the end of the stream; and the new total.
    """
    outputs, size, first = [data], len(data), True
    broken: str | None = None
    record_start = data[:_RECORD_START]
    while not inflater.eof:
        compressed = window.at(at, _INPUT) if inflater.needs_input else b""
        if not compressed and inflater.needs_input:
            broken = "truncated"
            break
        try:
            outputs.append(inflater.decompress(compressed, _OUTPUT))
        except codec.error:
            broken = "bad_record"
            break
        at += len(compressed)
        size += len(outputs[-1])
        total += len(outputs[-1])
        if len(record_start) < _RECORD_START:
            record_start += outputs[-1][:_RECORD_START]
        if total > _FREE_OUTPUT + _MAX_RATIO * at:
            broken = "bad_record"
            break
        if at - window.keep > _SEARCHABLE:
            window.keep = at
        if size >= _CHUNK and not inflater.eof:
            yield Chunk(b"".join(outputs), start, 0, first, last=False)
            outputs, size, first = [], 0, False
    if size:
        yield Chunk(b"".join(outputs), start, 0, first, last=broken is None)
    if not broken:
        return at - len(inflater.unused_data or b""), total
    yield Damage(start, broken)
    inner = inner_archive(record_start, 0, in_compressed=True)[1]
    return _next_member(window, codec, max(start + 1 + inner, window.keep)), total


def _next_member(window: Window, codec: Codec, position: int) -> int | None:
    """Return the position of the next member that starts a record."""
    while (found := window.search(codec.start, position)) is not None:
        window.keep = found
        if starts_record(codec, window.at(found, _MEMBER_START, _MEMBER_START)):
            return found
        position = found + 1
    return None


def starts_record(codec: Codec, member: bytes) -> bool:
    """Return whether the first KiB of a member may start a WARC record."""
    try:
        start = codec.new_inflater().decompress(member, 5)
    except codec.error:
        return False
    # A shorter start is enough where the stream ends within the member, or where a block is not complete.
    return b"WARC/".startswith(start) and (len(start) == 5 or len(member) < _MEMBER_START or not codec.streams)
