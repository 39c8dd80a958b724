"""WebDataset shards: tar files of samples, each sample the members `{key}.{extension}` in a row.

Writing is deterministic to the byte. Reading trusts nothing: members are read into memory and never unpacked to disk,
and a name that is not a plain `key.extension` is an error.

Source: POSIX.1-1988 (USTAR) for the headers; the index beside a shard is that of DALI's wds2idx.py, version v1.2.
"""

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.shards.layout import (
    BLOCK,
    MAX_MEMBER_BYTES,
    MEMBER_NAME,
    MEMBER_NAMES,
    NAME_BYTES,
    Layout,
    Member,
    archive_size,
)

_EMPTY = bytes(BLOCK)
_AT_ONCE = 1024  # headers that are checked together, which a processor's cache holds
_AHEAD = 8 * BLOCK  # read with a header: those of a caption and a row behind it are mostly among them
INDEX_VERSION = "v1.2"

Sample = tuple[str, dict[str, bytes]]
"""A key, and the bytes of its members by extension."""


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
        sizes = np.array([[len(data) for data in members.values()]], np.int64)
        layout = Layout([key], list(members), sizes, self._end)
        for header, data in zip(layout.headers()[0], members.values(), strict=True):
            self._file.writelines([header.tobytes(), data, bytes(-len(data) % BLOCK)])
        self._end = layout.end
        offsets = layout.offsets_NM[0].tolist()
        return [Member(key, name, at, len(data)) for (name, data), at in zip(members.items(), offsets, strict=True)]

    def close(self) -> None:
        """Write the end of the archive; the file stays open."""
        self._file.write(bytes(archive_size(self._end) - self._end))


def list_members(file: BinaryIO, where: str) -> list[Member]:
    """Where each member of a shard lies, in its order; only headers are read.

    Args:
        file: seekable.
        where: the shard's name, for errors.

    Raises: CorruptPart when the tar is damaged or cut, a member is no plain `key.extension` file, or one comes twice.
    """
    names, offsets, sizes = _walk(file, where)
    keys, _, extensions = zip(*(name.partition(".") for name in names), strict=True) if names else ((), (), ())
    return list(map(Member, keys, extensions, offsets, sizes))


def find_spans(names: Iterable[str], file: BinaryIO, where: str) -> dict[str, tuple[int, int]]:
    """Offset and bytes of those of the members that are in a shard.

    It is followed no further than to the last of them, and headers of others are only read for their sizes.

    Args:
        file: seekable.
        where: the shard's name, for errors.

    Raises: CorruptPart when the tar is cut before the last of them, or a header is damaged.
    """
    left, found = {name.encode().ljust(NAME_BYTES, b"\0") for name in names}, dict[bytes, tuple[int, int]]()
    for header, offset, size in _headers(file, where) if left else ():
        if header[:NAME_BYTES] in left:
            left.remove(header[:NAME_BYTES])
            found[header] = (offset, size)
            if not left:
                break
    spelt = _checked(list(found), [size for _, size in found.values()], where)
    return dict(zip(spelt, found.values(), strict=True))


def _walk(file: BinaryIO, where: str) -> tuple[list[str], list[int], list[int]]:
    """The name of each member, where its bytes begin, and how many they are."""
    headers, offsets, sizes = list[bytes](), list[int](), list[int]()
    try:
        for header, offset, size in _headers(file, where):
            headers.append(header)
            offsets.append(offset)
            sizes.append(size)
    except CorruptPart:
        _checked(headers, sizes, where)  # a bad header is the better reason
        raise
    names = _checked(headers, sizes, where)
    _check_unique(names, where)
    return names, offsets, sizes


def _headers(file: BinaryIO, where: str) -> Iterator[tuple[bytes, int, int]]:
    """The header of each member, where its bytes begin, and how many they are.

    Raises: CorruptPart where the shard is cut, the last member that is there having come.
    """
    end, read_at, at, ahead, start = file.seek(0, 2), _reader(file), 0, b"", 0
    while True:
        near = at - start
        if near > len(ahead) - BLOCK:
            ahead, start, near = read_at(at), at, 0
        block = ahead[near : near + BLOCK]
        if block == _EMPTY:
            return
        size = _number(block[124:136])
        if size < 0 or len(block) < BLOCK:
            raise CorruptPart(f"{where}: not a whole tar file (no header at byte {at:,})")
        offset = at + BLOCK
        yield block, offset, size
        at = offset + size + -size % BLOCK
        if at > end:
            raise CorruptPart(f"{where}: the member at byte {offset:,} ends early")


def _reader(file: BinaryIO) -> Callable[[int], bytes]:
    """Reads _AHEAD bytes from a place on: of a file on the disk in one call."""
    try:
        descriptor = file.fileno()
    except OSError:  # of bytes in memory

        def read_at(at: int) -> bytes:
            file.seek(at)
            return file.read(_AHEAD)

        return read_at
    return lambda at: os.pread(descriptor, _AHEAD, at)


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
    """The names in the headers, which are looked at many at a time: it takes a quarter of the time."""
    names: list[str] = []
    for start in range(0, len(headers), _AT_ONCE):
        names += _checked_at_once(headers[start : start + _AT_ONCE], sizes[start : start + _AT_ONCE], where)
    return names


def _checked_at_once(headers: Sequence[bytes], sizes: Sequence[int], where: str) -> list[str]:
    bytes_HB = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK)
    sums = bytes_HB.sum(axis=1, dtype=np.int64) - bytes_HB[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    stated = _numbers(bytes_HB[:, 148:156])
    if (bad := np.flatnonzero(sums != stated)).size:
        name = headers[bad[0]][:NAME_BYTES].rstrip(b"\0").decode("latin-1")
        raise CorruptPart(f"{where}: not a whole tar file (bad checksum of the header of {name!r})")
    plain = np.isin(bytes_HB[:, 156], (0, ord("0"))) & ~bytes_HB[:, 345:500].any(axis=1)
    lines = b"\n".join(bytes_HB[:, :NAME_BYTES].copy().view(f"S{NAME_BYTES}").ravel().tolist()).decode("latin-1")
    if plain.all() and MEMBER_NAMES.fullmatch(lines) and max(sizes) <= MAX_MEMBER_BYTES:
        return lines.split("\n")
    names = [block[:NAME_BYTES].rstrip(b"\0").decode("latin-1") for block in headers]
    for name, size, is_plain in zip(names, sizes, plain.tolist(), strict=True):
        if not is_plain or not MEMBER_NAME.fullmatch(name):
            raise CorruptPart(f"{where}: member {name!r} is not a plain key.extension file")
        _check_size(name, size, where)
    return names


def _check_size(name: str, size: int, where: str) -> None:
    if not 0 <= size <= MAX_MEMBER_BYTES:
        raise CorruptPart(f"{where}: member {name!r} has {size} bytes, more than {MAX_MEMBER_BYTES >> 20} MiB")


def _check_unique(names: Sequence[str], where: str) -> None:
    """No member twice, and those of a sample in a row."""
    keys = [name.partition(".")[0] for name in names]
    if len(set(names)) == len(names) and 1 + sum(map(str.__ne__, keys, keys[1:])) <= max(1, len(set(keys))):
        return
    seen: set[str] = set()
    for key, group in groupby(names, key=lambda name: name.partition(".")[0]):
        if key in seen:
            raise CorruptPart(f"{where}: sample {key!r} comes twice")
        seen.add(key)
        members: set[str] = set()
        for name in group:
            if name in members:
                raise CorruptPart(f"{where}: member {name!r} comes twice")
            members.add(name)


def format_index(samples: Iterable[Sequence[Member]]) -> str:
    """The index of a shard: a line a sample, of each member the extension, offset, size and name."""
    return join_index_lines(
        " ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in members) for members in samples
    )


def join_index_lines(lines: Iterable[str]) -> str:
    """The index with these lines."""
    lines = list(lines)
    return "\n".join([f"{INDEX_VERSION} {len(lines)}", *lines]) + "\n"


def read_index(text: str, where: str) -> Iterator[dict[str, Member]]:
    """The members of each sample by extension, in the order of the shard.

    Raises: CorruptPart when it is no such index.
    """
    first, *lines = text.splitlines() or [""]
    if first != f"{INDEX_VERSION} {len(lines)}":
        raise CorruptPart(f"{where}: not an index of version {INDEX_VERSION} with {len(lines)} samples")
    for line in lines:
        words = line.split()
        try:
            members = [
                Member(name.partition(".")[0], extension, int(offset), int(size))
                for extension, offset, size, name in zip(*(iter(words),) * 4, strict=True)
            ]
        except ValueError as error:
            raise CorruptPart(f"{where}: not a line of an index: {line[:80]!r}") from error
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
            raise CorruptPart(f"{where}: sample {key!r} comes twice")
        seen.add(key)
        sample: dict[str, bytes] = {}
        for _, extension, data in members:
            if extension in sample:
                raise CorruptPart(f"{where}: member '{key}.{extension}' comes twice")
            sample[extension] = data
        yield key, sample


def _members(file: BinaryIO, where: str) -> Iterator[tuple[str, str, bytes]]:
    try:
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for info in tar:
                if not info.isreg() or info.sparse or not MEMBER_NAME.fullmatch(info.name):
                    raise CorruptPart(f"{where}: member {info.name!r} is not a plain key.extension file")
                _check_size(info.name, info.size, where)
                content = tar.extractfile(info)
                data = content.read() if content else b""
                if len(data) != info.size:
                    raise CorruptPart(f"{where}: member {info.name!r} ends early")
                key, _, extension = info.name.partition(".")
                yield key, extension, data
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - which else grows with each member
    except (tarfile.TarError, EOFError, ValueError) as error:  # ValueError: numbers that no tar can hold
        raise CorruptPart(f"{where}: not a whole tar file ({error})") from error
