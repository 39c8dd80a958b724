"""WebDataset shards: tar files of samples, each sample the members `{key}.{extension}` in a row.

Writing is deterministic to the byte. Reading trusts nothing: members are read into memory and never unpacked to disk,
and a name that is not a plain `key.extension` is an error.

Source: POSIX.1-1988 (USTAR) for the headers; the index beside a shard is that of DALI's wds2idx.py, version v1.2.
"""

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataops.errors import CorruptPart

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_]+)+", re.ASCII)
_NAMES = re.compile(rf"{_NAME.pattern}(?:\n{_NAME.pattern})*", re.ASCII)
_OWNER = b"pairmill"
_BLOCK, _RECORD = 512, 10240
_EMPTY = bytes(_BLOCK)
_AHEAD = 8 * _BLOCK  # read with a header: those of a caption and a row behind it are mostly among them
_NAME_BYTES = 100
"""A longer name would need an extension of the format."""
MAX_MEMBER_BYTES = 256 << 20
"""Of one member: it is held in memory."""
INDEX_VERSION = "v1.2"

Sample = tuple[str, dict[str, bytes]]
"""A key, and the bytes of its members by extension."""


class Member(NamedTuple):
    """Where the bytes of a member lie in its shard."""

    key: str
    extension: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """As the tar calls it."""
        return f"{self.key}.{self.extension}"

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + self.size + -self.size % _BLOCK


class ShardWriter:
    """Writes samples into a tar: USTAR headers, one owner, no clock. The same samples give the same bytes.

    Args:
        file: at its beginning.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._end = file, 0

    def write(self, key: str, members: Mapping[str, bytes]) -> list[Member]:
        """Append one sample, its members in the order of the mapping; where they lie.

        Raises: ValueError when a name or a size could not be read back.
        """
        ((written,), self._end) = laid_out([(key, {name: len(data) for name, data in members.items()})], self._end)
        for header, data in zip(headers_of(written), members.values(), strict=True):
            self._file.writelines([header.tobytes(), data, bytes(-len(data) % _BLOCK)])
        return written

    def close(self) -> None:
        """Write the end of the archive; the file stays open."""
        self._file.write(bytes(with_end(self._end) - self._end))


def laid_out(samples: Iterable[tuple[str, Mapping[str, int]]], start: int = 0) -> tuple[list[list[Member]], int]:
    """Where the members of samples lie in the shard that ShardWriter would write, and where the next one would begin.

    Args:
        samples: keys, and the sizes of the members by extension, in their order.
        start: where the first one begins.
    """
    end = start
    found: list[list[Member]] = []
    for key, sizes in samples:
        members = []
        for extension, size in sizes.items():
            member = Member(key, extension, end + _BLOCK, size)
            end = member.end
            members.append(member)
        found.append(members)
    return found, end


def with_end(end: int) -> int:
    """Bytes of an archive whose last member ends there: two empty blocks follow, and what fills the record."""
    return end + 2 * _BLOCK + -(end + 2 * _BLOCK) % _RECORD


_BEFORE_SIZE = b"0000444\0" + 2 * b"0000000\0"  # mode, uid, gid
_BEFORE_SUM = b"00000000000\0"  # mtime
_AFTER_SUM = b"0" + bytes(100) + b"ustar\x0000" + 2 * _OWNER.ljust(32, b"\0") + bytes(16 + 155 + 12)
_HEADER = bytes(_NAME_BYTES) + _BEFORE_SIZE + b"0" * 11 + b"\0" + _BEFORE_SUM + b" " * 8 + _AFTER_SUM
_SIZE_AT, _SUM_AT = 124, 148


def headers_of(members: Sequence[Member]) -> NDArray[np.uint8]:
    """The 512 bytes before each member's own, as (members, 512).

    Raises: ValueError when a name or a size could not be read back.
    """
    names = [member.name for member in members]
    for name, member in zip(names, members, strict=True):
        if not _NAME.fullmatch(name) or len(name) > _NAME_BYTES:
            msg = f"{name!r} is not a plain key.extension of at most {_NAME_BYTES} characters"
            raise ValueError(msg)
        if member.size > MAX_MEMBER_BYTES:
            msg = f"{name!r} has {member.size} bytes, more than {MAX_MEMBER_BYTES >> 20} MiB"
            raise ValueError(msg)
    headers = np.tile(np.frombuffer(_HEADER, np.uint8), (len(members), 1))
    headers[:, :_NAME_BYTES] = np.array(names, f"S{_NAME_BYTES}").view(np.uint8).reshape(-1, _NAME_BYTES)
    _put_octal(headers[:, _SIZE_AT : _SIZE_AT + 11], np.array([member.size for member in members]))
    sums = headers.sum(axis=1, dtype=np.int64)
    _put_octal(headers[:, _SUM_AT : _SUM_AT + 6], sums)
    headers[:, _SUM_AT + 6] = 0
    return headers


def _put_octal(fields: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
    for place in range(fields.shape[1]):
        fields[:, -1 - place] = ord("0") + (numbers >> (3 * place) & 7)


def places(file: BinaryIO, where: str) -> list[Member]:
    """Where each member of a shard lies, in its order; only headers are read.

    Args:
        file: seekable.
        where: the shard's name, for errors.

    Raises: CorruptPart when the tar is damaged or cut, a member is no plain `key.extension` file, or one comes twice.
    """
    end, at, ahead, start = file.seek(0, 2), 0, b"", 0
    headers, offsets, sizes = list[bytes](), list[int](), list[int]()
    while True:
        if not 0 <= at - start <= len(ahead) - _BLOCK:
            file.seek(at)
            ahead, start = file.read(_AHEAD), at
        block = ahead[at - start : at - start + _BLOCK]
        if block == _EMPTY:
            break
        size = _number(block[124:136])
        if size < 0 or len(block) < _BLOCK:
            msg = f"{where}: not a whole tar file (no header at byte {at:,})"
            raise CorruptPart(msg)
        headers.append(block)
        offsets.append(at + _BLOCK)
        sizes.append(size)
        at += _BLOCK + size + -size % _BLOCK
        if at > end:
            _checked(headers, sizes, where)  # a bad header is the better reason
            msg = f"{where}: the member at byte {offsets[-1]:,} ends early"
            raise CorruptPart(msg)
    names = _checked(headers, sizes, where)
    keys, _, extensions = zip(*(name.partition(".") for name in names), strict=True) if names else ((), (), ())
    found = list(map(Member, keys, extensions, offsets, sizes))
    if len(set(names)) < len(names) or 1 + sum(map(str.__ne__, keys, keys[1:])) > len(set(keys)):
        _check_unique(found, where)
    return found


def _number(field: bytes) -> int:
    """An octal number, or -1."""
    try:
        return int(field.strip(b" \0"), 8)
    except ValueError:
        return -1


def _numbers(fields_HF: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of each field its octal number, or -1; those of digits, then NUL and a space, all at once."""
    digits = fields_HF[:, :-2].astype(np.int64) - ord("0")
    values = digits @ (8 ** np.arange(digits.shape[1])[::-1])
    usual = ((digits >= 0) & (digits < 8)).all(axis=1) & (fields_HF[:, -2:] == (0, ord(" "))).all(axis=1)
    for row in np.flatnonzero(~usual).tolist():
        values[row] = _number(fields_HF[row].tobytes())
    return values


def _checked(headers: Sequence[bytes], sizes: Sequence[int], where: str) -> list[str]:
    """The names in the headers, all of which are looked at together: it takes a quarter of the time."""
    bytes_HB = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, _BLOCK)
    sums = bytes_HB.sum(axis=1, dtype=np.int64) - bytes_HB[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    stated = _numbers(bytes_HB[:, 148:156])
    if (bad := np.flatnonzero(sums != stated)).size:
        msg = f"{where}: not a whole tar file (bad checksum of header {bad[0]:,})"
        raise CorruptPart(msg)
    plain = np.isin(bytes_HB[:, 156], (0, ord("0"))) & ~bytes_HB[:, 345:500].any(axis=1)
    lines = b"\n".join(bytes_HB[:, :_NAME_BYTES].copy().view(f"S{_NAME_BYTES}").ravel().tolist()).decode("latin-1")
    if plain.all() and _NAMES.fullmatch(lines) and max(sizes) <= MAX_MEMBER_BYTES:
        return lines.split("\n")
    names = [block[:_NAME_BYTES].rstrip(b"\0").decode("latin-1") for block in headers]
    for name, size, is_plain in zip(names, sizes, plain.tolist(), strict=True):
        if not is_plain or not _NAME.fullmatch(name):
            msg = f"{where}: member {name!r} is not a plain key.extension file"
            raise CorruptPart(msg)
        _check_size(name, size, where)
    return names


def _check_size(name: str, size: int, where: str) -> None:
    if not 0 <= size <= MAX_MEMBER_BYTES:
        msg = f"{where}: member {name!r} has {size} bytes, more than {MAX_MEMBER_BYTES >> 20} MiB"
        raise CorruptPart(msg)


def _check_unique(members: Sequence[Member], where: str) -> None:
    """No member twice, and those of a sample in a row."""
    seen: set[str] = set()
    for key, group in groupby(members, key=lambda member: member.key):
        if key in seen:
            msg = f"{where}: sample {key!r} comes twice"
            raise CorruptPart(msg)
        seen.add(key)
        extensions: set[str] = set()
        for member in group:
            if member.extension in extensions:
                msg = f"{where}: member {member.name!r} comes twice"
                raise CorruptPart(msg)
            extensions.add(member.extension)


def index_text(samples: Iterable[Sequence[Member]]) -> str:
    """The index of a shard: a line a sample, of each member the extension, offset, size and name."""
    lines = [" ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in members) for members in samples]
    return "\n".join([f"{INDEX_VERSION} {len(lines)}", *lines]) + "\n"


def read_index(text: str, where: str) -> Iterator[dict[str, Member]]:
    """The members of each sample by extension, in the order of the shard.

    Raises: CorruptPart when it is no such index.
    """
    first, *lines = text.splitlines() or [""]
    if first != f"{INDEX_VERSION} {len(lines)}":
        msg = f"{where}: not an index of version {INDEX_VERSION} with {len(lines)} samples"
        raise CorruptPart(msg)
    for line in lines:
        words = line.split()
        try:
            members = [
                Member(name.partition(".")[0], extension, int(offset), int(size))
                for extension, offset, size, name in zip(*(iter(words),) * 4, strict=True)
            ]
        except ValueError as error:
            msg = f"{where}: not a line of an index: {line[:80]!r}"
            raise CorruptPart(msg) from error
        yield {member.extension: member for member in members}


def read_samples(file: BinaryIO, where: str) -> Iterator[Sample]:
    """The samples of a shard, in its order, read as a stream.

    Args:
        where: the shard's name, for errors.

    Raises: CorruptPart when the tar is damaged, a member is no plain `key.extension` file, or a sample comes twice.
    """
    seen: set[str] = set()
    for key, members in groupby(_members(file, where), key=lambda member: member[0]):
        if key in seen:
            msg = f"{where}: sample {key!r} comes twice"
            raise CorruptPart(msg)
        seen.add(key)
        sample: dict[str, bytes] = {}
        for _, extension, data in members:
            if extension in sample:
                msg = f"{where}: member '{key}.{extension}' comes twice"
                raise CorruptPart(msg)
            sample[extension] = data
        yield key, sample


def _members(file: BinaryIO, where: str) -> Iterator[tuple[str, str, bytes]]:
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for info in tar:
                if not info.isreg() or info.sparse or not _NAME.fullmatch(info.name):
                    msg = f"{where}: member {info.name!r} is not a plain key.extension file"
                    raise CorruptPart(msg)
                _check_size(info.name, info.size, where)
                content = tar.extractfile(info)
                data = content.read() if content else b""
                if len(data) != info.size:
                    msg = f"{where}: member {info.name!r} ends early"
                    raise CorruptPart(msg)
                key, _, extension = info.name.partition(".")
                yield key, extension, data
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - which else grows with each member
    except (tarfile.TarError, EOFError, ValueError) as error:  # ValueError: numbers that no tar can hold
        msg = f"{where}: not a whole tar file ({error})"
        raise CorruptPart(msg) from error
