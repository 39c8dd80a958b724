"""Find copies of listed images: entries of opt-out lists that are perceptual digests, such as `pdq:HEX`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops import plugins
from dataops.errors import ConfigError
from dataops.images.decode import ImageRefused
from dataops.images.digests import KIND, PHASH, Digest, DistanceSet, parse_words
from dataops.lists.value_set import sort_values
from dataops.regular_files import read_bytes

Entries = NDArray[np.uint64]
"""(n, words + 1): the words of each digest, and the maximum distance of a copy."""
MARK = "list:"
"""Prefix of a list's name in the column `page_opt_out` of a dropped row."""


def parse_copy(text: str) -> str | None:
    """Return the canonical form of an entry that is a perceptual digest, such as `phash:HEX~4`; None for other entries.

    Raises: ValueError with the allowed form; ConfigError with the command that installs the digest.
    """
    kind, colon, value = text.partition(":")
    if not colon or kind.lower() not in plugins.names(KIND):
        return None
    digest: Digest = plugins.find(KIND, kind.lower())
    hexadecimal, tilde, bits = value.strip().lower().partition("~")
    if len(hexadecimal) != digest.digits or not set(hexadecimal) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:80]!r} is no {kind.lower()}: {digest.digits} hex digits")
    limit = digest.digits
    if tilde and not (bits.isascii() and bits.isdigit() and int(bits) <= limit):
        raise ValueError(f"{text[:80]!r}: the number after ~ must be 0 to {limit} bits by which a copy may differ")
    return f"{kind.lower()}:{hexadecimal}~{int(bits) if tilde else digest.bits}"


def list_images(folder: str) -> Iterable[str]:
    """Yield the entries that name the images in a folder: the digest of each file, and the perceptual hash for its copies.

    Raises: ConfigError with the file that is no image, and what to do.
    """
    from dataops.trace.targets import image_targets

    for path in sorted(Path(folder).rglob("*")):
        if path.is_dir() or path.name.startswith("."):
            continue
        try:
            yield from map(str, image_targets(read_bytes(path), PHASH.bits))
        except ImageRefused as refused:
            raise ConfigError(
                f"{path} is not read as an image ({refused}); convert it to PNG, or remove it"
            ) from refused


def pack_entries(entries: Iterable[str]) -> dict[str, Entries]:
    """Return what `parse_copy` returned, by the name of the digest, sorted."""
    found: dict[str, list[list[int]]] = {}
    for entry in entries:
        kind, _, value = entry.partition(":")
        digest, _, bits = value.partition("~")
        found.setdefault(kind, []).append([*parse_words(digest), int(bits)])
    return {kind: sort_values(np.array(rows, np.uint64)) for kind, rows in sorted(found.items())}


@dataclass(frozen=True)
class CopyList:
    """The entries of one list with one perceptual digest."""

    name: str
    digest: str
    entries: Entries


def match_copies(
    rows: pl.DataFrame, lists: Sequence[CopyList], read: Callable[[], Iterable[bytes | memoryview]]
) -> dict[int, str]:
    """Return for each row whose image is a copy of a listed one the lists, the entries and the distances in bits, such as
    `list:letters phash:0f1e2d3c4b5a6978~3`. An image with too little detail is no copy.

    Args:
        rows: curated rows.
        read: yields the images of all rows.

    Raises: ImageRefused for an image that cannot be decoded.
    """
    found: dict[int, list[str]] = {}
    for kind in dict.fromkeys(one.digest for one in lists):
        digest: Digest = plugins.find(KIND, kind)
        values = rows[digest.column] if digest.column else (digest.compute(bytes(image)) for image in read())
        sets = [(one, DistanceSet(one.entries[:, :-1])) for one in lists if one.digest == kind]
        for row, value in enumerate(values):
            if value is None:
                continue
            words = np.array(parse_words(value), np.uint64)
            for one, listed in sets:
                if near := listed.find_near(words, one.entries[:, -1].astype(np.int64)):
                    entry = "".join(f"{word:016x}" for word in one.entries[near[0], :-1].tolist())
                    found.setdefault(row, []).append(f"{MARK}{one.name} {kind}:{entry}~{near[1]}")
    return {row: ",".join(marks) for row, marks in found.items()}
