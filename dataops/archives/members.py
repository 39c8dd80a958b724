"""Inflates a compressed stream of many members in one pass, and skips damaged members.

The compressions of archives are gzip, zstd (also with a dictionary in the file) and lz4. Each is a
sequence of members, as gzip calls them, or frames, as the others do; usually there is one for each
record. After a damaged member, reading continues at the next member that starts a WARC record. A
crawl may fetch archives: their records do not belong to the file, and where the record that holds
one is damaged, the search for the next record skips it.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), the LZ4 frame format, and "Zstandard Compression for WARC Files" 1.0 (IIPC).
"""

import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError
from lz4.frame import LZ4FrameDecompressor

from dataops.errors import UnusableSource
from dataops.reasons import Reason

_BLOCK = 1 << 16  # bytes per read; larger blocks need fresh memory pages each time
LONGEST_PATTERN = 64
"""Number of bytes that a pattern of `Window.search` may match, at most."""


class ByteStream(Protocol):
    """A stream of bytes that can be read once, from start to end."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Damage:
    """A record that could not be used, and the reason."""

    offset: int
    """Position of that record, or of its gzip member or frame, in the file."""
    reason: str


class Window:
    """The bytes of a stream by position; the bytes before `keep` are released."""

    def __init__(self, stream: ByteStream):
        self.keep = 0
        self._stream, self._data, self._start, self._ended = stream, b"", 0, False

    def at(self, position: int, size: int, least: int = 1) -> bytes:
        """Return the bytes at a position: at most `size`, and at least `least` unless the stream ends before."""
        while self._start + len(self._data) < position + least and self.read_block():
            pass
        start = max(0, position - self._start)
        return self._data[start : start + size]

    def read_block(self) -> bool:
        """Read one more block. Return False at the end of the stream."""
        block = b"" if self._ended else self._stream.read(_BLOCK)
        self._ended = not block
        released = min(self.keep - self._start, len(self._data))
        self._data = self._data[released:] + block
        self._start += released
        return not self._ended

    def search(self, pattern: re.Pattern[bytes], position: int) -> int | None:
        """Return the next position of a pattern, and release the bytes before it; None if there is none.

        The pattern matches at most LONGEST_PATTERN bytes.
        """
        while True:
            if found := pattern.search(self._data, max(0, position - self._start)):
                return self._start + found.start()
            position = max(position, self._start + len(self._data) - LONGEST_PATTERN)
            self.keep = position
            if not self.read_block():
                return None

    def peek(self, position: int, size: int) -> bytes | None:
        """Return at most `size` bytes at a position that may be far ahead; None if the stream cannot seek."""
        seek, tell = getattr(self._stream, "seek", None), getattr(self._stream, "tell", None)
        if seek is None or tell is None:
            return None
        back = tell()
        found = b""
        if position < seek(0, os.SEEK_END):
            seek(position)
            found = self._stream.read(size)
        seek(back)
        return found


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_DICTIONARY_FRAME = b"\x5d\x2a\x4d\x18"
_MAX_DICTIONARY = 8 << 20  # the size that the specification asks for, compressed and not
_MAX_WINDOW_LOG = 27  # zstd's own default: 128 MiB of memory
_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


class Inflater(Protocol):
    """A decompressor of one member."""

    @property
    def eof(self) -> bool | None: ...

    @property
    def needs_input(self) -> bool | None: ...

    @property
    def unused_data(self) -> bytes | bytearray | None: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Codec(NamedTuple):
    """One compression."""

    magic: bytes
    """The first bytes of each member."""
    start: re.Pattern[bytes]
    """Matches what may be the start of a member."""
    new_inflater: Callable[[], Inflater]
    error: type[Exception]
    """Raised by the inflater for damaged content."""
    streams: bool
    """True if the first KiB of a member always gives its first bytes; the others decode whole blocks."""


GZIP = Codec(
    b"\x1f\x8b",
    re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"),
    partial(IgzipDecompressor, flag=DECOMP_GZIP),
    IsalError,  # pyright: ignore[reportArgumentType]
    streams=True,
)
_ZSTD_MAGIC, _LZ4_MAGIC = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
LZ4 = Codec(_LZ4_MAGIC, re.compile(re.escape(_LZ4_MAGIC)), LZ4FrameDecompressor, RuntimeError, streams=False)
MAGICS = (GZIP.magic, _ZSTD_MAGIC, _LZ4_MAGIC)
"""What the content of each compression starts with."""


def zstd_codec(dictionary: zstd.ZstdDict | None = None) -> Codec:
    """Return the codec of zstd frames; `dictionary` is used for all of them."""
    options = {int(zstd.DecompressionParameter.window_log_max): _MAX_WINDOW_LOG}
    new_inflater = partial(zstd.ZstdDecompressor, zstd_dict=dictionary, options=options)
    return Codec(_ZSTD_MAGIC, re.compile(re.escape(_ZSTD_MAGIC)), new_inflater, zstd.ZstdError, streams=False)


ZSTD = zstd_codec()


def find_codec(window: Window) -> tuple[Codec | None, int]:
    """Return the codec of a stream (None if it is not compressed), and the position of its first member.

    Raises: SourceError for a dictionary that cannot be used, or one that is needed and not in the file.
    """
    at, dictionary = 0, None
    while (size := skippable_size(window, at)) is not None:
        if at == 0 and window.at(0, 4, 4) == _DICTIONARY_FRAME:
            dictionary = _read_dictionary(window.at(8, size - 8, size - 8))
        at += size
        window.keep = at
    if at == 0 and window.at(0, 4, 4) == _DICTIONARY_FRAME:
        raise UnusableSource(f"its zstd dictionary is damaged, or has over {_MAX_DICTIONARY} bytes")
    start = window.at(at, 18, 18)
    is_zstd = start.startswith(_ZSTD_MAGIC)
    if is_zstd and not dictionary:
        _check_dictionary(start)
    if is_zstd or dictionary:
        return zstd_codec(dictionary), at
    return next((codec for codec in (GZIP, LZ4) if start.startswith(codec.magic)), None), at


def skippable_size(window: Window, at: int, *, check: bool = True) -> int | None:
    """Return the size of the skippable frame at a position, with its head; None if there is none of a usable size.

    Args:
        check: whether another frame or the end of the stream must follow, so that a damaged size skips no records.
    """
    head = window.at(at, 8, 8)
    if len(head) < 8 or not _SKIPPABLE.match(head):
        return None
    size = 8 + int.from_bytes(head[4:], "little")
    if size > 8 + _MAX_DICTIONARY or len(window.at(at + size - 1, 1)) < 1:
        return None
    following = window.at(at + size, 4, 4)
    known = following.startswith(MAGICS) or _SKIPPABLE.match(following)
    return size if known or not following or not check else None


def _read_dictionary(content: bytes) -> zstd.ZstdDict:
    try:
        if content.startswith(_ZSTD_MAGIC):
            inflater = zstd.ZstdDecompressor()
            content = inflater.decompress(content, _MAX_DICTIONARY)
            if not inflater.eof:
                raise UnusableSource(f"its zstd dictionary is cut off, or has over {_MAX_DICTIONARY} bytes")
        dictionary = zstd.ZstdDict(content)
        zstd.ZstdDecompressor(zstd_dict=dictionary)  # raises ZstdError for a damaged one
        return dictionary
    except (zstd.ZstdError, ValueError) as error:
        raise UnusableSource(f"its zstd dictionary cannot be used: {error}") from error


def _check_dictionary(frame: bytes) -> None:
    """Check that the first frame of a file without a dictionary needs none."""
    try:
        needed = zstd.get_frame_info(frame).dictionary_id
    except zstd.ZstdError:
        return
    if needed:
        raise UnusableSource(
            f"it needs the zstd dictionary {needed}, which is not in the file; decompress it with the dictionary "
            "(`zstd -d -D DICTIONARY FILE`) and read the plain file"
        )


MAX_HEAD = 1 << 16
"""Maximum size of a record's head, in bytes."""
LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,20})[ \t]*\r?(?:\n|\Z)", re.IGNORECASE)
_FIELD = re.compile(rb"[A-Za-z0-9_.-]+[ \t]*:|[ \t]|\Z")
_ARCHIVE_TYPE = re.compile(rb"\ncontent-type:[ \t]*application/(?:x-)?(?:warc|arc|gzip)\b(?!-fields)", re.IGNORECASE)


def split_head(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the end of the head at a position and the start of the content; None if the head is longer than MAX_HEAD."""
    limit = at + MAX_HEAD
    end = data.find(b"\n\r\n", at, limit)
    bare = data.find(b"\n\n", at, end if end >= 0 else limit)
    if bare >= 0:
        return bare, bare + 2
    if end < 0:
        return None
    return end - (data[end - 1 : end] == b"\r"), end + 3


def inner_archive(data: bytes, at: int, *, in_compressed: bool) -> tuple[int, int]:
    """Return the start of the content of the record at a position and the length of the archive in it, (0, 0) if none.

    Args:
        in_compressed: whether the archive is searched for in compressed bytes, where only one that is compressed itself
            can be found. It does not shrink when it is compressed again, so it takes at least its own length.
    """
    at += len(data[at : at + MAX_HEAD]) - len(data[at : at + MAX_HEAD].lstrip())
    split = split_head(data, at)
    # A damaged end of the head makes the lines of the content part of it, and the next record its content.
    if split is None or not all(map(_FIELD.match, data[at : split[0]].split(b"\n")[1:])):
        return 0, 0
    content = split[1]
    if data.startswith(b"HTTP/", content):
        split = split_head(data, content)
        content = split[1] if split else content
    heads = data[at:content]
    known = data.startswith(MAGICS, content)
    if not in_compressed:
        known = known or data.startswith(b"WARC/", content) or _ARCHIVE_TYPE.search(heads) is not None
    lengths = LENGTH.findall(heads)  # the last one is that of the response
    return (content, int(lengths[-1])) if known and lengths else (0, 0)


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
            broken = Reason.TRUNCATED
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
