"""The tables that pass between who asks for scores, who computes them and who keeps them. Pure."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from dataops.schema import FACE_BBOXES

ID = pa.binary(16)
TO_SCORE = pa.schema([("key", pa.string()), ("caption", pa.string()), ("id", ID)])
"""What is to be scored of a shard: a row a sample. `id` only comes back with its score."""
SCORES = pa.schema([("id", ID), ("score", pa.float32())])
"""What came of it; null where the picture cannot be decoded."""
FACES = pa.schema([*SCORES, ("face_bboxes", FACE_BBOXES)])
"""The same of the scorer of faces: their number, and where they are."""


def compute_score_ids(pictures: Sequence[str], captions: Sequence[str] | None) -> pa.Array:
    """What a score is of (type ID): 128 bits of BLAKE2b over the picture's digest and, where they count, the caption.

    Args:
        pictures: hex digests of the bytes that a scorer is given.
        captions: one a picture; None: the score is of the picture alone.
    """
    texts = ["\0" + caption for caption in captions] if captions is not None else [""] * len(pictures)
    made = (
        hashlib.blake2b((picture + text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for picture, text in zip(pictures, texts, strict=True)
    )
    return pa.array(made, ID)
