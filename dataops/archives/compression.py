"""The compressions of archives: gzip, zstd (also with a dictionary in the file) and lz4.

Each is a sequence of members, as gzip calls them, or frames, as the others do; usually there is one for each record.

Sources: RFC 1952 (gzip), RFC 8878 (zstd), the LZ4 frame format, and "Zstandard Compression for WARC Files" 1.0 (IIPC).
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError
from lz4.frame import LZ4FrameDecompressor

from dataops.archives.stream import Window
from dataops.errors import UnusableSource

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_ZSTD_DICTIONARY = b"\x37\xa4\x30\xec"
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
    if start.startswith(_ZSTD_MAGIC):
        _check_dictionary(start, dictionary)
        return zstd_codec(dictionary), at
    if dictionary:
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


def _check_dictionary(frame: bytes, dictionary: zstd.ZstdDict | None) -> None:
    """Check that the dictionary is the one that the first frame needs."""
    try:
        needed = zstd.get_frame_info(frame).dictionary_id
    except zstd.ZstdError:
        return
    if needed and dictionary is None:
        raise UnusableSource(
            f"it needs the zstd dictionary {needed}, which is not in the file; decompress it with the dictionary "
            "(`zstd -d -D DICTIONARY FILE`) and read the plain file"
        )
