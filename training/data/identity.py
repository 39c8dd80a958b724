"""Hashes that decide whether two pairs have the same image or the same caption."""

import numpy as np
import xxhash


def hash_image(data: bytes) -> int:
    """Return a hash of an image file, as a signed number of 64 bits: torch compares no others."""
    return _sign(xxhash.xxh3_64_intdigest(data))


def hash_caption(caption: str) -> int:
    """Return a hash of a caption, to which neither case nor the number of spaces matters."""
    return _sign(xxhash.xxh3_64_intdigest(" ".join(caption.casefold().split()).encode()))


def _sign(hashed: int) -> int:
    return int(np.uint64(hashed).astype(np.int64))
