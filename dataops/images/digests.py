"""Perceptual digests, by which opt-out lists name an image and its copies, and the search for near ones.

A `Digest` is registered by an entry point in the group `pairmill.digests`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KIND = "digests"


@dataclass(frozen=True)
class Digest:
    """A perceptual digest, whose value is written in hex digits."""

    digits: int
    """A multiple of 16."""
    bits: int
    """Maximum Hamming distance of a copy, in bits, unless an entry has another one."""
    compute: Callable[[bytes], str | None]
    """Returns the digest of an image file; None for one with too little detail. Raises: ImageRefused."""
    column: str | None = None
    """Column of curated rows that has it; None: it is computed from the images."""


def compute_phash(data: bytes) -> str:
    """Return the perceptual hash of an image file, 16 hex digits. Raises: ImageRefused."""
    from dataops.images.decode import decode_pixels
    from dataops.images.fingerprint import fingerprint  # numba takes 0.7 s to import

    return f"{fingerprint(decode_pixels(data)).phash:016x}"


PHASH = Digest(digits=16, bits=4, compute=compute_phash, column="phash")


def parse_words(digest: str) -> list[int]:
    """Return the words of 64 bits of a digest in hex digits, the most significant first."""
    return [int(digest[at : at + 16], 16) for at in range(0, len(digest), 16)]


_BLOCK = 1 << 15
"""Digests that are compared at a time: their words fit in the cache of a core."""


class DistanceSet:
    """A set of digests that is searched by Hamming distance, with 8 bytes of memory for each word.

    Args:
        words_NK: the digests as words of 64 bits.
        block: digests that are compared at a time.
    """

    def __init__(self, words_NK: NDArray[np.uint64], block: int = _BLOCK):
        self._columns, self._block = [np.ascontiguousarray(column) for column in words_NK.T], block

    def __len__(self) -> int:
        return len(self._columns[0])

    def find_near(self, words: NDArray[np.uint64], max_bits: int | NDArray[np.int64]) -> tuple[int, int] | None:
        """Return the index and the distance of a digest within `max_bits` (of each, or of all); None without one.

        The distance over half of the words is at most that over all. Few pairs of unrelated digests
        pass the first comparison, and only those are compared in full.
        """
        half = -(-len(self._columns) // 2)
        limits = np.broadcast_to(np.asarray(max_bits), len(self))
        for start in range(0, len(self), self._block):
            columns = [column[start : start + self._block] for column in self._columns]
            distances = np.bitwise_count(columns[0] ^ words[0])
            for column, word in zip(columns[1:half], words[1:half], strict=True):
                distances += np.bitwise_count(column ^ word)  # at most 128, in one byte
            near = np.flatnonzero(distances <= limits[start : start + self._block])
            if not len(near):
                continue
            whole = distances[near].astype(np.int64)
            for column, word in zip(columns[half:], words[half:], strict=True):
                whole += np.bitwise_count(column[near] ^ word)
            near, whole = (one[whole <= limits[start + near]] for one in (near, whole))
            if len(near):
                best = int(whole.argmin())
                return start + int(near[best]), int(whole[best])
        return None
