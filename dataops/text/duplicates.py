"""The choice among duplicate pairs. It sees only hashes and ranks, and depends on no order of rows or parts.

Rows of one uid have one url, and so do rows of one url and caption: whatever is a duplicate lies in one range of url
hashes, and each range can be decided by itself (`partition`). Only duplicate captions of different urls need a second look,
by ranges of caption hashes.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import (
    empty_slots,
    find_repeated,
    hash128,
    hash128_folded,
    hash128_joined,
    mix,
    slot_of,
    uid_halves,
)
from dataops.text.caption_counts import count_captions

Dedupe = Literal["uid", "pair", "url", "caption"]
DEDUPE_STEPS: tuple[Dedupe, ...] = ("uid", "pair", "url", "caption")
"""The steps in the order in which they are taken; a row's reason is `duplicate_<step>` of the first that drops it."""

SOURCE_RANK = {"alt": 0, "pair_list": 0, "aria_label": 1, "figcaption": 2, "title": 3, "og": 4, "filename": 5}
"""What is preferred among captions of one image: alt and aria-label are written to stand for it, a figcaption to go with
it, a title is a tooltip; og:title and og:description speak of the page."""
FULL_CAPTION_WORDS = 3
"""A caption of at least so many words is preferred to a shorter one, wherever it stands."""
LONG_CAPTION_WORDS = 20
"""Beyond so many words, more are not better."""

KEYS = {**dict.fromkeys(("url", "caption", "uid", "origin"), pl.UInt64), "rank": pl.UInt16}
"""What the choice is made by: hashes of the url, of the caption in any case and of where the row was found, the first half
of the uid, and `ranks`. That two of a billion urls have one hash of 64 bits has a chance of 3%."""
KEYED = ["uid", "url", "caption", "caption_source", "page_url", "source", "source_offset"]
"""The columns of `pairs` that KEYS are made of."""
KEY_BYTES = 34
"""Of one row of KEYS."""

_WORD_BITS, _SOURCE_BITS = 5, 3
_GROUPS = {"uid": ("uid", "uid"), "pair": ("url", "caption"), "url": ("url", "url"), "caption": ("caption", "caption")}
"""What the duplicates of a step have in common."""
CAPTION_STEPS = frozenset(step for step, both in _GROUPS.items() if "caption" in both)
"""The steps that look at the hash of the caption."""


def compute_keys(rows: pl.DataFrame, counts: pl.DataFrame | None = None, *, captions: bool = True) -> pl.DataFrame:
    """The columns of KEYS for rows of `pairs`.

    Args:
        counts: what caption_counts.counted says of them, where it is known already.
        captions: with that of captions, which takes half the time; only CAPTION_STEPS look at it.
    """
    place = [rows[name].to_arrow() for name in ("caption_source", "page_url", "source")]
    hashes = {
        "url": hash128(rows["url"].to_arrow()),
        **({"caption": hash128_folded(rows["caption"].to_arrow())} if captions else {}),
        "uid": uid_halves(rows["uid"].to_arrow()),
        "origin": hash128_joined(place, rows["source_offset"].cast(pl.Int64).to_arrow()),
    }
    ranked = rank_captions(rows["caption_source"], count_captions(rows["caption"]) if counts is None else counts)
    schema = {name: KEYS[name] for name in (*hashes, "rank")}
    return pl.DataFrame({**{what: both[:, 0] for what, both in hashes.items()}, "rank": ranked}, schema=schema)


def rank_captions(sources: pl.Series, counts: pl.DataFrame) -> pl.Series:
    """How good the captions of one url are, the best first (UInt16).

    From the highest bit on: fewer than FULL_CAPTION_WORDS words; in capitals only; SOURCE_RANK; words that are lacking to
    LONG_CAPTION_WORDS.
    """
    words, capitals = pl.col("caption_words").fill_null(0), pl.col("caption_capitals").fill_null(value=False)
    source = pl.lit(sources.fill_null("").replace_strict(SOURCE_RANK, default=len(SOURCE_RANK), return_dtype=pl.UInt16))
    number = (words < FULL_CAPTION_WORDS).cast(pl.UInt16) * 2 + capitals.cast(pl.UInt16)
    number = number * (1 << _SOURCE_BITS) + source
    lacking = LONG_CAPTION_WORDS - words.clip(upper_bound=LONG_CAPTION_WORDS)
    return counts.select((number * (1 << _WORD_BITS) + lacking).cast(pl.UInt16).alias("rank")).to_series()


def partition_hashes(high: pl.Series, bits: int) -> tuple[pl.Series, NDArray[np.int64]]:
    """Rows by ranges: hashes are cut into 2^bits equal ranges, by their high half.

    Returns: the numbers of the rows (UInt32), range by range and in their order in each; and how many each range has.
    """
    order, sizes = np.empty(len(high), np.uint32), np.zeros(1 << bits, np.int64)
    _sort_by_partition(high.to_numpy(), np.uint64(bits), sizes, order)
    return pl.Series(order), sizes


@compiled(nogil=True)
def _sort_by_partition(high, bits, sizes, order):
    places = np.zeros(len(sizes), np.int64)
    for value in high:  # a shift by 64 is none
        sizes[(value >> np.uint64(1)) >> (np.uint64(63) - bits)] += 1
    for number in range(1, len(sizes)):
        places[number] = places[number - 1] + sizes[number - 1]
    for row in range(len(high)):
        number = (high[row] >> np.uint64(1)) >> (np.uint64(63) - bits)
        order[places[number]] = row
        places[number] += 1


def find_duplicates(rows: pl.DataFrame, steps: Sequence[Dedupe]) -> NDArray[np.uint8]:
    """Which step drops each row because another one stands for it: 1 + its place in DEDUPE_STEPS, 0 where none does.

    Of the rows of one uid, or of one url and caption (in any case), one that is not in capitals stays, then that from the
    best source (SOURCE_RANK). Of the captions of one url the one stays that has FULL_CAPTION_WORDS words, then one that is
    not in capitals, then that from the best source, then the one with more words (up to LONG_CAPTION_WORDS). Of the urls of
    one caption the same, which leaves the one of the smallest uid. What is still equal is decided by the smallest uid, then
    by the smallest hash of where it was found, and at last by position, which can only tell apart rows that are the same in
    all this.

    Args:
        rows: columns of KEYS; that of captions only where a step asks for it.
        steps: those to take; in the order of DEDUPE_STEPS, whatever the order given.
    """
    places = np.flatnonzero(_find_repeated(rows, steps))  # few, and all that the choice looks at
    known = {name: rows[name].to_numpy()[places] for name in KEYS if name in rows.columns}
    gone = np.zeros(len(places), np.uint8)
    slots = empty_slots(len(places))
    for number, step in enumerate(DEDUPE_STEPS):
        if step in steps:
            one, other = (known[name] for name in _GROUPS[step])
            rank = known["rank"]
            if step in ("uid", "pair"):
                rank = (rank >> _WORD_BITS) & np.uint16((2 << _SOURCE_BITS) - 1)  # no matter how many words
            slots[:] = -1
            _keep_best(one, other, rank, known["uid"], known["origin"], slots, np.uint8(number + 1), gone)
    found = np.zeros(rows.height, np.uint8)
    found[places] = gone
    return found


def _find_repeated(rows: pl.DataFrame, steps: Sequence[Dedupe]) -> NDArray[np.bool_]:
    """The rows that can be duplicates."""
    found = np.zeros(rows.height, np.bool_)
    for what in ("url", "caption"):
        if (what == "url" and set(steps) - {"caption"}) or what in steps:
            found |= find_repeated(rows[what].to_numpy())
    return found


@compiled(nogil=True)
def _keep_best(one, other, rank, uid, origin, slots, step, gone):
    """Of the rows that are still there and have both hashes in common, mark all but the best as dropped by a step."""
    mask = len(slots) - 1
    for i in range(len(one)):
        if gone[i]:
            continue
        at = slot_of(one[i] + mix(other[i]), mask)
        while slots[at] >= 0:
            best = slots[at]
            if one[best] == one[i] and other[best] == other[i]:
                if _is_before(i, best, rank, uid, origin):
                    gone[best] = step
                    slots[at] = i
                else:
                    gone[i] = step
                break
            at = (at + 1) & mask
        else:
            slots[at] = i


@compiled(inline="always")
def _is_before(i, j, rank, uid, origin):
    """Of two rows, whether the first one stays; the second one has the lower number."""
    if rank[i] != rank[j]:
        return rank[i] < rank[j]
    if uid[i] != uid[j]:
        return uid[i] < uid[j]
    return origin[i] < origin[j]
