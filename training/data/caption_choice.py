"""Choose one caption of a sample each time it is seen, by the weights of the kinds in `[train.captions]`.

The kind is drawn first, then one of the sample's captions of this kind. So a kind's share does not depend on how many
captions of it a sample has. The draws are a function of seed, epoch and sample.
"""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import msgspec

from dataops.schema import CAPTIONS

CAPTIONS_FIELD = f'"{CAPTIONS.name}"'.encode()
"""Field of a sample's JSON without which its only caption is that of its `.txt`."""
DRAWS = 2


class _Caption(msgspec.Struct):
    caption: str
    caption_source: str | None = None


class CaptionRow(msgspec.Struct):
    """The fields of a sample's JSON that hold its captions."""

    caption_source: str | None = None
    captions: list[_Caption] | None = None


def read_captions(row: bytes | dict[str, object]) -> CaptionRow:
    """Return the captions of a sample from its JSON, or from its row in the Parquet beside the shard.

    Raises: ValueError if they are not valid.
    """
    if isinstance(row, bytes):
        return msgspec.json.decode(row, type=CaptionRow) if CAPTIONS_FIELD in row else CaptionRow()
    return msgspec.convert(row, CaptionRow)


def list_captions(own: str, row: CaptionRow, weights: Mapping[Any, float]) -> dict[str, list[str]]:
    """Return the captions of a sample that may be chosen, by kind in alphabetical order.

    Args:
        own: caption in the sample's `.txt`.
        weights: by kind; a kind that is not listed has 1. If all kinds of the sample have 0, its own caption is left.
    """
    found: dict[str, list[str]] = {row.caption_source or "": [own]}
    for one in row.captions or ():
        if text := one.caption.strip():
            found.setdefault(one.caption_source or "", []).append(text)
    chosen = {kind: texts for kind, texts in sorted(found.items()) if weights.get(kind, 1) > 0}
    return chosen or {row.caption_source or "": [own]}


def choose_caption(own: str, row: CaptionRow, weights: Mapping[Any, float], draws: tuple[float, float]) -> str:
    """Return the caption for one visit.

    Args:
        draws: numbers in [0, 1), for the kind and for the caption.
    """
    found = list_captions(own, row, weights)
    kinds = list(found)
    ends = list(accumulate(weights.get(kind, 1) or 1 for kind in kinds))
    texts = found[kinds[min(bisect_right(ends, draws[0] * ends[-1]), len(kinds) - 1)]]
    return texts[int(draws[1] * len(texts))]
