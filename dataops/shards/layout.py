"""Compute the layout of a shard: the offset and header of each member, for many members at once.

Source: POSIX.1-1988 (USTAR).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK, RECORD = 512, 10240
NAME_BYTES = 100
"""Maximum length of a name: a longer one needs an extension of the format."""
MAX_MEMBER_BYTES = 256 << 20
"""Maximum size of a member: it is held in memory."""
_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_EXTENSION = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*", re.ASCII)
MEMBER_NAME = re.compile(rf"{_KEY.pattern}\.{_EXTENSION.pattern}", re.ASCII)
MEMBER_NAMES = re.compile(rf"{MEMBER_NAME.pattern}(?:\n{MEMBER_NAME.pattern})*", re.ASCII)

_OWNER = b"pairmill"
_BEFORE_SIZE = b"0000444\0" + 2 * b"0000000\0"  # mode, uid, gid
_BEFORE_SUM = b"00000000000\0"  # mtime
_AFTER_SUM = b"0" + bytes(100) + b"ustar\x0000" + 2 * _OWNER.ljust(32, b"\0") + bytes(16 + 155 + 12)
_HEADER = np.frombuffer(
    bytes(NAME_BYTES) + _BEFORE_SIZE + bytes(11) + b"\0" + _BEFORE_SUM + b" " * 8 + _AFTER_SUM, np.uint8
)
_SIZE_AT, _SIZE_DIGITS, _SUM_AT, _SUM_DIGITS = 124, 11, 148, 6


class Member(NamedTuple):
    """Offset and size of a member's bytes in its shard."""

    key: str
    extension: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """Name of the member in the tar."""
        return f"{self.key}.{self.extension}"


@dataclass(frozen=True)
class Layout:
    """Layout of N consecutive samples of M members each in their shard."""

    keys: Sequence[str]
    extensions: Sequence[str]
    sizes_NM: NDArray[np.int64]
    """Sizes of the members, in bytes."""
    start: int = 0
    """Offset of the first header."""

    @cached_property
    def ends_NM(self) -> NDArray[np.int64]:
        """Offset of the header after each member."""
        taken = BLOCK + self.sizes_NM + -self.sizes_NM % BLOCK
        return self.start + np.cumsum(taken).reshape(taken.shape)

    @cached_property
    def offsets_NM(self) -> NDArray[np.int64]:
        """Offset of each member's bytes."""
        return self.ends_NM - self.sizes_NM - -self.sizes_NM % BLOCK

    @property
    def end(self) -> int:
        """Offset of the end of the last sample."""
        return int(self.ends_NM.max(initial=self.start))

    def lines(self) -> Iterator[str]:
        """Return the line of each sample in the index."""
        line = " ".join(f"{extension} %d %d %s.{extension}" for extension in self.extensions)
        spans = zip(self.offsets_NM.T.tolist(), self.sizes_NM.T.tolist(), strict=True)
        columns = [column for offsets, sizes in spans for column in (offsets, sizes, self.keys)]
        return map(line.__mod__, zip(*columns, strict=True))

    def put_blocks(self, blocks_B512: NDArray[np.uint8]) -> None:
        """Write the headers, and zeros into the last block of each member, which the member may not fill.

        Args:
            blocks_B512: the shard's bytes from `start` on.

        Raises: ValueError if a name or a size is not allowed in a shard.
        """
        blocks_B512[(self.ends_NM - self.start) // BLOCK - 1] = 0
        blocks_B512[(self.offsets_NM - self.start) // BLOCK - 1] = self.headers()

    def headers(self) -> NDArray[np.uint8]:
        """Return the header of each member (N, M, 512), with a constant owner and time.

        Raises: ValueError if a name or a size is not allowed in a shard.
        """
        self._check()
        headers = np.empty((*self.sizes_NM.shape, BLOCK), np.uint8)
        headers[:] = _HEADER
        keys = np.array(self.keys, "S")
        for i, extension in enumerate(self.extensions):
            names = np.char.add(keys, f".{extension}".encode()).astype(f"S{NAME_BYTES}")
            headers[:, i, :NAME_BYTES] = names.view(np.uint8).reshape(-1, NAME_BYTES)
        digits = _octal(self.sizes_NM, _SIZE_DIGITS)
        headers[..., _SIZE_AT : _SIZE_AT + _SIZE_DIGITS] = digits
        letters = headers[..., :NAME_BYTES].sum(axis=-1, dtype=np.uint32)
        sums = int(_HEADER.sum(dtype=np.int64)) + letters + digits.sum(axis=-1, dtype=np.uint32)
        headers[..., _SUM_AT : _SUM_AT + _SUM_DIGITS] = _octal(sums, _SUM_DIGITS)
        headers[..., _SUM_AT + _SUM_DIGITS] = 0
        return headers

    def _check(self) -> None:
        longest = NAME_BYTES - 1 - max(map(len, self.extensions), default=0)
        keys = [key for key in self.keys if len(key) > longest or not _KEY.fullmatch(key)]
        extensions = [extension for extension in self.extensions if not _EXTENSION.fullmatch(extension)]
        if keys or (self.keys and extensions):
            name = f"{(keys or self.keys)[0]}.{(extensions or self.extensions)[0]}"
            raise ValueError(f"{name!r} is not a plain key.extension of at most {NAME_BYTES} characters")
        if self.sizes_NM.max(initial=0) > MAX_MEMBER_BYTES:
            row, column = divmod(int(self.sizes_NM.argmax()), len(self.extensions))
            name = f"{self.keys[row]}.{self.extensions[column]}"
            raise ValueError(f"{name!r} has {self.sizes_NM.max()} bytes, more than {MAX_MEMBER_BYTES >> 20} MiB")


def archive_size(end: int) -> int:
    """Return the size of an archive whose last member ends at `end`: two empty blocks and padding to a record follow."""
    return end + 2 * BLOCK + -(end + 2 * BLOCK) % RECORD


def _octal(numbers: NDArray[np.int64], digits: int) -> NDArray[np.uint8]:
    shifts = 3 * np.arange(digits - 1, -1, -1)
    return (ord("0") + (numbers[..., None] >> shifts & 7)).astype(np.uint8)
