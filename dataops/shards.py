"""WebDataset shards: tar files of samples, each sample the members `{key}.{extension}` in a row.

Writing is deterministic to the byte. Reading trusts nothing: members are read into memory and never unpacked to disk,
and a name that is not a plain `key.extension` is an error.
"""

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import BinaryIO

from dataops.errors import CorruptPart

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_]+)+", re.ASCII)
_OWNER = "pairmill"
MAX_MEMBER_BYTES = 256 << 20
"""Of one member that is read: it is held in memory."""

Sample = tuple[str, dict[str, bytes]]
"""A key, and the bytes of its members by extension."""


class ShardWriter:
    """Writes samples into a tar: USTAR headers, one owner, no clock. The same samples give the same bytes."""

    def __init__(self, file: BinaryIO):
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - see close

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; its members in the order of the mapping.

        Raises: ValueError when a name could not be read back.
        """
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            if not _NAME.fullmatch(info.name):
                msg = f"{info.name!r} is not a plain key.extension"
                raise ValueError(msg)
            info.size, info.mode, info.uname, info.gname = len(data), 0o444, _OWNER, _OWNER
            self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> None:
        """Write the end of the archive; the file stays open."""
        self._tar.close()


def read_samples(file: BinaryIO, where: str) -> Iterator[Sample]:
    """The samples of a shard, in its order.

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
                if not 0 <= info.size <= MAX_MEMBER_BYTES:
                    msg = f"{where}: member {info.name!r} has {info.size} bytes, more than {MAX_MEMBER_BYTES >> 20} MiB"
                    raise CorruptPart(msg)
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
