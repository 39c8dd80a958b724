"""Files of features: arrays that are written whole or not at all, and read as memory-mapped ones."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dataops.digest import canonical_json, text_sha256
from dataops.storage.cached_files import mark_used

VERSION = 3
"""Version of the features, raised when the same weights and data give others."""

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
    part.replace(path)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)


def read_features(path: Path, count: int, width: int) -> np.ndarray | None:
    """Return the array of a file, which counts as used; None if there is none of this size."""
    try:
        found = np.load(path, mmap_mode="r" if count else None, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    mark_used(path)
    return found if found.shape == (count, width) and found.dtype == np.float32 else None
