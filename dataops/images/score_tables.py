"""Define the tables of samples to score and of their scores, which tasks and training jobs exchange."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

ID = pa.binary(16)
TO_SCORE = pa.schema([("key", pa.string()), ("caption", pa.string()), ("id", ID)])
"""Samples of a shard to score, one per row; `id` is returned with the score."""
SCORES = pa.schema([("id", ID), ("score", pa.float32())])
"""Scores of samples; null if the image cannot be decoded."""


def compute_score_ids(digests: Sequence[str], captions: Sequence[str] | None) -> pa.Array:
    """Return the identity of each score (ID): 128 bits of BLAKE2b over the image's digest and, if given, the caption.

    Args:
        digests: hex digests of the bytes of the images.
        captions: one per image; None: the score depends on the image alone.
    """
    texts = ["\0" + caption for caption in captions] if captions is not None else [""] * len(digests)
    ids = (
        hashlib.blake2b((image + text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for image, text in zip(digests, texts, strict=True)
    )
    return pa.array(ids, ID)
