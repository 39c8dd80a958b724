"""Finds duplicate pairs and decides which one is kept, by hashes and ranks only, whatever the order of rows and parts.

Rows with one uid have one URL, and so have rows with one URL and caption. So all duplicates of a
row are in one partition of the URL hashes. Only duplicate captions of different URLs need the
partitions of the caption hashes.
"""

import secrets
from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars import selectors as cs

from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import hash128, hash128_folded, mix, uid_halves
from dataops.text.caption_counts import count_captions
from dataops.trace.sources import number_sources

Dedupe = Literal["uid", "pair", "url", "caption"]
DEDUPE_STEPS: tuple[Dedupe, ...] = ("uid", "pair", "url", "caption")
"""The steps in their order; the drop reason of a row is `duplicate_<step>` of the first step that drops it."""

SOURCE_RANK = {"alt": 0, "pair_list": 0, "aria_label": 1, "figcaption": 2, "title": 3, "og": 4, "description": 4}
SOURCE_RANK |= {"filename": 5, "keywords": 6, "synthetic": 6}
"""Rank of caption sources; a lower one is preferred. alt and aria-label replace the image, a figcaption accompanies it,
a title is a tooltip, and og:title and og:description describe the page."""
_UNKNOWN_SOURCE = 7
_NEVER_FULL = ("keywords", "synthetic")
"""Sources whose captions count as short ones: a list of words or a model's text is no reason to drop a real caption."""
FULL_CAPTION_WORDS = 3
"""Number of words from which on a caption is preferred to a shorter one, whatever their sources."""
LONG_CAPTION_WORDS = 20
"""Number of words beyond which a longer caption is not better."""

KEYS = {
    **dict.fromkeys(("url", "url_low", "caption", "caption_low", "uid", "origin"), pl.UInt64),
    "rank": pl.UInt16,
}
"""Columns of the keys: the halves of 128-bit hashes of the URL and of the caption in folded case, the first halves of the
uid and of a hash of the row's origin, and the result of rank_captions."""
KEYED = ["uid", "url", "caption", "caption_source", "page_url", "source", "source_offset"]
"""Columns of `pairs` from which KEYS are computed."""
_ORIGIN = ("caption_source", "page_url", "source", "source_offset")
KEY_BYTES = 50
"""Size of one row of KEYS, in bytes."""

_WORD_BITS, _SOURCE_BITS = 5, 3
RANK_BITS, RANK_BITS_OF_SOURCES = 10, 16
"""Bits of the key `rank` for one source, and for several, whose order has the highest six."""
_WITHOUT_WORDS = (1 << RANK_BITS_OF_SOURCES) - (1 << RANK_BITS) | ((2 << _SOURCE_BITS) - 1) << _WORD_BITS
"""Bits of a rank that do not depend on the numbers of words."""
_GROUPS = {
    "uid": ("uid", "url"),
    "pair": ("url", "caption"),
    "url": ("url", "url_low"),
    "caption": ("caption", "caption_low"),
}
"""The two columns of KEYS, 128 bits, that are equal in duplicates of a step. Rows of one uid have one URL."""
CAPTION_STEPS = frozenset(step for step, both in _GROUPS.items() if "caption" in both)
"""The steps that need the hash of the caption."""


def compute_keys(
    rows: pl.DataFrame, counts: pl.DataFrame | None = None, *, captions: bool = True, sources: Sequence[str] = ()
) -> pl.DataFrame:
    """Compute the columns of KEYS for rows of `pairs`.

    Args:
        counts: result of count_captions for these rows, if it is known already.
        captions: whether to hash captions, which takes half the time; only CAPTION_STEPS need it.
        sources: names of several sources, at most 64; the rank of a row of an earlier one is lower.
    """
    urls, uids = hash128(rows["url"].to_arrow()), uid_halves(rows["uid"].to_arrow())
    hashes = {"url": urls[:, 0], "url_low": urls[:, 1]}
    if captions:
        halves = hash128_folded(rows["caption"].to_arrow())
        hashes |= {"caption": halves[:, 0], "caption_low": halves[:, 1]}
    hashes |= {"uid": uids[:, 0]}
    texts = [pl.col(name).cast(pl.String).fill_null("") for name in _ORIGIN]
    origin = rows.select(pl.concat_str(texts, separator="\0")).to_series()
    hashes |= {"origin": hash128(origin.to_arrow())[:, 0]}
    ranked = rank_captions(rows["caption_source"], count_captions(rows["caption"]) if counts is None else counts)
    if sources:
        ranked += number_sources(rows["source"], sources).cast(pl.UInt16) * (1 << RANK_BITS)
    schema = {name: KEYS[name] for name in (*hashes, "rank")}
    return pl.DataFrame({**hashes, "rank": ranked}, schema=schema)


def rank_captions(sources: pl.Series, counts: pl.DataFrame) -> pl.Series:
    """Return the rank of each caption among those of one URL (UInt16); the best has the lowest rank.

    Its bits, from the highest on: fewer than FULL_CAPTION_WORDS words; in capitals only;
    SOURCE_RANK; the number of words less than LONG_CAPTION_WORDS.
    """
    words, capitals = pl.col("caption_words").fill_null(0), pl.col("caption_capitals").fill_null(value=False)
    source = pl.lit(sources.fill_null("").replace_strict(SOURCE_RANK, default=_UNKNOWN_SOURCE, return_dtype=pl.UInt16))
    is_short = (words < FULL_CAPTION_WORDS) | pl.lit(sources.is_in(_NEVER_FULL).fill_null(value=False))
    rank = is_short.cast(pl.UInt16) * 2 + capitals.cast(pl.UInt16)
    rank = rank * (1 << _SOURCE_BITS) + source
    missing = LONG_CAPTION_WORDS - words.clip(upper_bound=LONG_CAPTION_WORDS)
    return counts.select((rank * (1 << _WORD_BITS) + missing).cast(pl.UInt16).alias("rank")).to_series()


def find_duplicates(rows: pl.DataFrame, steps: Sequence[Dedupe]) -> NDArray[np.uint8]:
    """Return the step that drops each row as a duplicate (n,): 1 + its index in DEDUPE_STEPS, or 0 for a kept row.

    Of rows of several sources, the one of the earliest source is kept. Among rows of one uid, or of
    one URL and caption (in any case), the kept one is the first by: not in capitals only; source
    (SOURCE_RANK). Among the captions of one URL, and the URLs of one caption, it is the first by:
    at least FULL_CAPTION_WORDS words; not in capitals only; source; number of words, up to
    LONG_CAPTION_WORDS. Ties are decided by the smallest uid, then by the smallest hash of the
    origin, and then by position, between rows that are equal in all this.

    Args:
        rows: columns of KEYS; those of captions only if a step needs them.
        steps: steps to apply, always in the order of DEDUPE_STEPS.
    """
    found, seed = np.zeros(rows.height, np.uint8), np.uint64(secrets.randbits(64))
    if not rows.height or not steps:
        return found
    keys = {column.name: column.to_numpy() for column in rows.select(cs.by_name(KEYS, require_all=False)).rechunk()}
    firsts = {"caption" if step == "caption" else "url" for step in steps}
    slots = 1 << (4 * rows.height).bit_length()
    repeated = [_may_repeat(keys[name], np.zeros(slots, np.uint8), seed) for name in firsts]
    places = np.flatnonzero(np.any(repeated, axis=0))
    for number, step in enumerate(DEDUPE_STEPS, 1):
        if step in steps:
            ranks = keys["rank"] & np.uint16(_WITHOUT_WORDS if step in ("uid", "pair") else (1 << 16) - 1)
            high, low = (keys[name] for name in _GROUPS[step])
            slots = np.full(1 << (2 * len(places)).bit_length(), -1, np.int32)
            _drop_all_but_first(places, slots, high, low, ranks, keys["uid"], keys["origin"], seed, number, found)
    return found


@compiled(inline="always")
def _find_slot(slots, high, low, row, seed):
    """Return the slot of the row with the same key, or the free slot for this one.

    The seed is random, so that nobody can choose URLs that share a slot.
    """
    mask = np.uint64(len(slots) - 1)
    at = mix(high[row] ^ mix(low[row] ^ seed)) & mask
    while slots[at] >= 0 and (high[slots[at]] != high[row] or low[slots[at]] != low[row]):
        at = (at + np.uint64(1)) & mask
    return at


@compiled(nogil=True)
def _may_repeat(values, seen, seed):
    """Return whether another value has the slot of a value (n,): those that occur more than once, and few others."""
    shared, mask = np.empty(len(values), np.bool_), np.uint64(len(seen) - 1)
    for value in values:
        at = mix(value ^ seed) & mask
        seen[at] = min(seen[at] + 1, 2)
    for row in range(len(values)):
        shared[row] = seen[mix(values[row] ^ seed) & mask] > 1
    return shared


@compiled(nogil=True)
def _drop_all_but_first(places, slots, high, low, ranks, uids, origins, seed, number, found):
    """Set `found` to `number` for all rows of a key but the first in the order of find_duplicates."""
    for row in places:
        if found[row]:
            continue
        at = _find_slot(slots, high, low, row, seed)
        first = slots[at]
        if first >= 0:
            mine, its = (ranks[row], uids[row], origins[row]), (ranks[first], uids[first], origins[first])
            found[first if mine < its else row] = number
        if first < 0 or found[first]:
            slots[at] = row
