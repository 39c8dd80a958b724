"""Read and write WebDataset shards: tar files in which the members `{key}.{extension}` of a sample are consecutive.

Writing is deterministic to the byte. Reading assumes hostile files: members are read into memory
and never unpacked to disk, and a name that is not a plain `key.extension` is an error.

Source: POSIX.1-1988 (USTAR) for the headers; the index beside a shard is that of DALI's wds2idx.py, version v1.2.
"""

import os
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
_BATCH = 1024  # headers that are checked together; they fit the CPU cache
MORE_FOLLOWS = "more follows: a header was zeroed, or tars were joined"
MAX_PADDING = 1 << 20
"""Maximum number of zeros after the last member; tar pads to 10 KiB by default, and more zeros are lost data."""
_READ_AHEAD = 8 * BLOCK  # mostly holds the headers of the caption and the row after a header too
INDEX_VERSION = "v1.2"

Sample = tuple[str, dict[str, bytes]]
"""Key of a sample, and the bytes of its members by extension."""


class ShardWriter:
    """Writes samples into a tar of USTAR headers with a constant owner and time: equal samples give equal bytes.

    Args:
        file: at its beginning.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._end = file, 0

    def write(self, key: str, members: Mapping[str, bytes]) -> list[Member]:
        """Append one sample, with its members in the order of the mapping, and return the members' offsets.

        Raises: ValueError if a name or a size is not allowed in a shard.
        """
        sizes = np.array([[len(data) for data in members.values()]], np.int64)
        layout = Layout([key], list(members), sizes, self._end)
        for header, data in zip(layout.headers()[0], members.values(), strict=True):
            self._file.writelines([header.tobytes(), data, bytes(-len(data) % BLOCK)])
        self._end = layout.end
        offsets = layout.offsets_NM[0].tolist()
        return [Member(key, name, at, len(data)) for (name, data), at in zip(members.items(), offsets, strict=True)]

    def close(self) -> None:
        """Write the end of the archive and leave the file open."""
        self._file.write(bytes(archive_size(self._end) - self._end))


def list_members(file: BinaryIO, where: str) -> list[Member]:
    """Return the members of a shard in its order, reading only headers.

    Args:
        file: seekable.
        where: name of the shard, for errors.

    Raises: CorruptPart if the tar is damaged or truncated, a member is no plain `key.extension` file, or one is repeated.
    """
    names, offsets, sizes = _walk(file, where)
    keys, _, extensions = zip(*(name.partition(".") for name in names), strict=True) if names else ((), (), ())
    return list(map(Member, keys, extensions, offsets, sizes))


def find_spans(names: Iterable[str], file: BinaryIO, where: str) -> dict[str, tuple[int, int]]:
    """Return offset and size of those of the named members that are in a shard.

    It is read only up to the last of them; headers of other members are read only for their sizes.

    Args:
        file: seekable.
        where: name of the shard, for errors.

    Raises: CorruptPart if the tar is truncated before the last of them, or one of their headers is damaged.
    """
    left, found = {name.encode().ljust(NAME_BYTES, b"\0") for name in names}, dict[bytes, tuple[int, int]]()
    for header, offset, size in _headers(file, where) if left else ():
        if header[:NAME_BYTES] in left:
            left.remove(header[:NAME_BYTES])
            found[header] = (offset, size)
            if not left:
                break
    checked = _check_headers(list(found), [size for _, size in found.values()], where)
    return dict(zip(checked, found.values(), strict=True))


def _walk(file: BinaryIO, where: str) -> tuple[list[str], list[int], list[int]]:
    """Return the name, the offset and the size of each member."""
    headers, offsets, sizes = list[bytes](), list[int](), list[int]()
    try:
        for header, offset, size in _headers(file, where):
            headers.append(header)
            offsets.append(offset)
            sizes.append(size)
    except CorruptPart:
        _check_headers(headers, sizes, where)  # a bad header explains more
        raise
    names = _check_headers(headers, sizes, where)
    _check_unique(names, where)
    return names, offsets, sizes


def _headers(file: BinaryIO, where: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield the header, the offset and the size of each member.

    Raises: CorruptPart if the shard is truncated, after its last complete member was yielded.
    """
    end, read_at, at, ahead, start = file.seek(0, 2), _make_reader(file), 0, b"", 0
    while True:
        if at - start > len(ahead) - BLOCK:
            ahead, start = read_at(at), at
        block = ahead[at - start : at - start + BLOCK]
        if block == _EMPTY:
            file.seek(at)
            check_end(file, where, at)
            return
        size = _number(block[124:136])
        if size < 0 or len(block) < BLOCK:
            raise CorruptPart(f"{where}: not a whole tar file (no header at byte {at:,})")
        offset = at + BLOCK
        yield block, offset, size
        at = offset + size + -size % BLOCK
        if at > end:
            raise CorruptPart(f"{where}: the member at byte {offset:,} ends early")


def check_end(file: BinaryIO, where: str, at: int) -> None:
    """Check that only zeros follow the last member of a shard.

    Args:
        file: at any byte after the last member, at byte `at`.

    Raises: CorruptPart if others follow: a header was overwritten with zeros, or two tars were joined.
    """
    if not is_end(file, at):
        raise CorruptPart(f"{where}: not a whole tar file (its end is at byte {at:,}, but {MORE_FOLLOWS})")


def is_end(file: BinaryIO, at: int) -> bool:
    """Return whether only zeros follow in a file, as the padding of a tar whose last member ends at byte `at`."""
    data = file.read(MAX_PADDING + 1)
    return len(data) <= (MAX_PADDING if at else 10 << 10) and not data.strip(b"\0")  # an empty tar has one record


def _make_reader(file: BinaryIO) -> Callable[[int], bytes]:
    """Return a function that reads _READ_AHEAD bytes at an offset; from a file on disk, in one system call."""
    try:
        descriptor = file.fileno()
    except OSError:  # the file is in memory

        def read_at(at: int) -> bytes:
            file.seek(at)
            return file.read(_READ_AHEAD)

        return read_at
    return lambda at: os.pread(descriptor, _READ_AHEAD, at)


def _number(field: bytes) -> int:
    """Return an octal number, or -1 if it is none."""
    try:
        return int(field.strip(b" \0"), 8)
    except ValueError:
        return -1


def _numbers(fields_HF: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the octal number of each field, or -1; fields of digits, NUL and a space are parsed all at once."""
    digits = fields_HF[:, :-2].astype(np.int64) - ord("0")
    values = digits @ (8 ** np.arange(digits.shape[1])[::-1])
    plain = ((digits >= 0) & (digits < 8)).all(axis=1) & (fields_HF[:, -2:] == (0, ord(" "))).all(axis=1)
    for row in np.flatnonzero(~plain).tolist():
        values[row] = _number(fields_HF[row].tobytes())
    return values


def _check_headers(headers: Sequence[bytes], sizes: Sequence[int], where: str) -> list[str]:
    """Check headers, and return the names in them; batches take a quarter of the time of single headers."""
    names: list[str] = []
    for start in range(0, len(headers), _BATCH):
        names += _check_batch(headers[start : start + _BATCH], sizes[start : start + _BATCH], where)
    return names


def _check_batch(headers: Sequence[bytes], sizes: Sequence[int], where: str) -> list[str]:
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
    """Check that no member is repeated, and that the members of a sample are consecutive."""
    keys = [name.partition(".")[0] for name in names]
    if len(set(names)) == len(names) and 1 + sum(map(str.__ne__, keys, keys[1:])) <= max(1, len(set(keys))):
        return
    seen: set[str] = set()
    for key, group in groupby(names, key=lambda name: name.partition(".")[0]):
        if key in seen:
            raise CorruptPart(f"{where}: sample {key!r} is repeated")
        seen.add(key)
        members: set[str] = set()
        for name in group:
            if name in members:
                raise CorruptPart(f"{where}: member {name!r} is repeated")
            members.add(name)


def format_index(samples: Iterable[Sequence[Member]]) -> str:
    """Return the index of a shard: a line per sample, with extension, offset, size and name of each member."""
    return join_index_lines(
        " ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in members) for members in samples
    )


def join_index_lines(lines: Iterable[str]) -> str:
    """Return the index of a shard from the line of each sample."""
    lines = list(lines)
    return "\n".join([f"{INDEX_VERSION} {len(lines)}", *lines]) + "\n"


def read_index(text: str, where: str) -> Iterator[dict[str, Member]]:
    """Yield the members of each sample by extension, in the order of the shard.

    Raises: CorruptPart if the text is no index of this version.
    """
    first, *lines = text.splitlines() or [""]
    if first != f"{INDEX_VERSION} {len(lines)}":
        raise CorruptPart(f"{where}: not an index of version {INDEX_VERSION} with {len(lines)} samples")
    for line in lines:
        fields = line.split()
        try:
            members = [
                Member(name.partition(".")[0], extension, int(offset), int(size))
                for extension, offset, size, name in zip(*(iter(fields),) * 4, strict=True)
            ]
        except ValueError as error:
            raise CorruptPart(f"{where}: not a line of an index: {line[:80]!r}") from error
        yield {member.extension: member for member in members}


def read_samples(file: BinaryIO, where: str) -> Iterator[Sample]:
    """Yield the samples of a shard in its order, reading it as a stream.

    Args:
        where: name of the shard, for errors.

    Raises: CorruptPart if the tar is damaged, a member is no plain `key.extension` file, or a sample is repeated.
    """
    seen: set[str] = set()
    for key, members in groupby(_members(file, where), key=lambda member: member[0]):
        if key in seen:
            raise CorruptPart(f"{where}: sample {key!r} is repeated")
        seen.add(key)
        sample: dict[str, bytes] = {}
        for _, extension, data in members:
            if extension in sample:
                raise CorruptPart(f"{where}: member '{key}.{extension}' is repeated")
            sample[extension] = data
        yield key, sample


def _members(file: BinaryIO, where: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, extension and bytes of each member of a stream; a damaged header is an error, never the end."""
    at = 0
    while (header := _read(file, BLOCK)) != _EMPTY:
        size = _number(header[124:136])
        if size < 0 or len(header) < BLOCK:
            raise CorruptPart(f"{where}: not a whole tar file (no header at byte {at:,})")
        name = _plain_name(header, size) or _check_batch([header], [size], where)[0]
        data = _read(file, size + -size % BLOCK)
        if len(data) < size:
            raise CorruptPart(f"{where}: member {name!r} ends early")
        key, _, extension = name.partition(".")
        yield key, extension, data[:size]
        at += BLOCK + len(data)
    check_end(file, where, at)


def _plain_name(header: bytes, size: int) -> str | None:
    """Return the name in a header that needs no closer look; a batch of one takes four times as long."""
    checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    name = header[:NAME_BYTES].rstrip(b"\0").decode("latin-1")
    is_plain = header[156] in b"\x000" and not header[345:500].strip(b"\0") and size <= MAX_MEMBER_BYTES
    return name if is_plain and checksum == _number(header[148:156]) and MEMBER_NAME.fullmatch(name) else None


def _read(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes of a stream, or fewer at its end."""
    data = file.read(size)
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data
