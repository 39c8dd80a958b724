"""Files of features: arrays that are written whole or not at all, and read as memory-mapped ones.

After the array, which ends as numpy's format says, a file has the 16 bytes of a checksum (xxh3) of all before them.
"""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xxhash

from dataops.digest import canonical_json, text_sha256
from dataops.storage.cached_files import mark_used

VERSION = 5
"""Version of the features, raised when the same weights and data give others, or files another format."""
CHECKSUM_BYTES = 16
logger = logging.getLogger(__name__)
_OF_SHARD = re.compile(r"(?:images|texts)-([0-9a-f]{16})-[0-9a-f]{64}\.")


def name_shard_features(kind: str, shard_sha256: str, decides: object) -> str:
    """Return the name of the file with the features of a shard's images or texts.

    Args:
        kind: images or texts.
        decides: all that decides the features.
    """
    return f"{kind}-{shard_sha256[:16]}-{text_sha256(canonical_json(decides))}.npy"


def parse_shard(name: str) -> str | None:
    """Return the first 16 digits of the sha256 of the shard to which a file belongs; None if it is of no shard."""
    return match[1] if (match := _OF_SHARD.search(name)) else None


def write_features(path: Path, count: int, width: int, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write an array (count, width) in fp32.

    Args:
        rows: numbers of some rows, and their features; a row that none of them has is NaN.
    """
    if count == 0:
        write_array(path, np.empty((0, width), np.float32))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # another job may compute the same
    array = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(count, width))
    array[:] = np.nan
    for numbers, features in rows:
        array[numbers] = features
    array.flush()
    del array
    _finish(part, path)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, array)
    _finish(part, path)


def _finish(part: Path, path: Path) -> None:
    with part.open("ab") as file:
        file.write(_checksum(part, part.stat().st_size))
    part.replace(path)


def _checksum(path: Path, size: int) -> bytes:
    """Return the checksum of the first bytes of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while size > 0 and (data := file.read(min(size, 1 << 20))):
            digest.update(data)
            size -= len(data)
    return digest.digest()


def is_whole(path: Path) -> bool:
    """Return whether a file is as it was written; log it if it is not."""
    if not path.is_file():
        return False
    size = path.stat().st_size - CHECKSUM_BYTES
    with path.open("rb") as file:
        file.seek(max(size, 0))
        is_equal = file.read() == _checksum(path, size)
    if not is_equal:
        logger.warning("%s is damaged: its checksum differs; it is computed again", path)
    return is_equal


def read_features(path: Path, count: int, width: int) -> np.ndarray | None:
    """Return the array of a file, which counts as used; None if there is none of this size."""
    try:
        found = np.load(path, mmap_mode="r" if count else None, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    mark_used(path)
    return found if found.shape == (count, width) and found.dtype == np.float32 else None
