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

from dataops.caption_counts import counted
from dataops.compiled import compiled
from dataops.hashes import hash128, hash128_folded, hash128_joined, repeated, uid_halves

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

KEYS = {
    **{f"{what}_{half}": pl.UInt64 for what in ("url", "caption", "uid") for half in ("high", "low")},
    "source_rank": pl.UInt8,
    "words": pl.UInt32,
    "capitals": pl.Boolean,
    "origin": pl.UInt64,
}
"""What the choice is made by: 128-bit hashes of url and of the caption in any case, the uid; the rank of the caption's
source, its words, whether it is in capitals only, and a hash of where the row was found."""
KEYED = ["uid", "url", "caption", "caption_source", "page_url", "source", "source_offset"]
"""The columns of `pairs` that KEYS are made of."""
KEY_BYTES = 62
"""Of one row of KEYS."""

_GROUPS = {
    "uid": ["uid_high", "uid_low"],
    "pair": ["url_high", "url_low", "caption_high", "caption_low"],
    "url": ["url_high", "url_low"],
    "caption": ["caption_high", "caption_low"],
}


def keys(rows: pl.DataFrame, counts: pl.DataFrame | None = None) -> pl.DataFrame:
    """The columns of KEYS for rows of `pairs`.

    Args:
        counts: what caption_counts.counted says of them, where it is known already.
    """
    hashes = {
        "url": hash128(rows["url"].to_arrow()),
        "caption": hash128_folded(rows["caption"].to_arrow()),
        "uid": uid_halves(rows["uid"].to_arrow()),
    }
    halves = {f"{what}_{half}": both[:, i] for what, both in hashes.items() for i, half in enumerate(("high", "low"))}
    place = [rows[name].to_arrow() for name in ("caption_source", "page_url", "source")]
    origin = hash128_joined(place, rows["source_offset"].cast(pl.Int64).to_arrow())[:, 0]
    ranking = rows.with_columns(counted(rows["caption"]) if counts is None else counts).select(
        source_rank=pl.col("caption_source")
        .fill_null("")
        .replace_strict(SOURCE_RANK, default=len(SOURCE_RANK), return_dtype=pl.UInt8),
        words="caption_words",
        capitals="caption_capitals",
    )
    return pl.DataFrame({**halves, **ranking.to_dict(), "origin": origin}, schema=KEYS)


def _several(rows: pl.DataFrame, steps: Sequence[Dedupe]) -> pl.Series:
    """The rows that can be duplicates: few, and all that the choice looks at."""
    found = np.zeros(rows.height, np.bool_)
    for what in ("url", "caption"):
        if (what == "url" and set(steps) - {"caption"}) or what in steps:
            found |= repeated(rows[f"{what}_high"].to_numpy(), rows[f"{what}_low"].to_numpy())
    return pl.Series(found)


def partition(high: pl.Series, bits: int) -> tuple[pl.Series, NDArray[np.int64]]:
    """Rows by ranges: hashes are cut into 2^bits equal ranges, by their high half.

    Returns: the numbers of the rows (UInt32), range by range and in their order in each; and how many each range has.
    """
    order, sizes = np.empty(len(high), np.uint32), np.zeros(1 << bits, np.int64)
    _sort_by_range(high.to_numpy(), np.uint64(bits), sizes, order)
    return pl.Series(order), sizes


@compiled(nogil=True)
def _sort_by_range(high, bits, sizes, order):
    places = np.zeros(len(sizes), np.int64)
    for value in high:  # a shift by 64 is none
        sizes[(value >> np.uint64(1)) >> (np.uint64(63) - bits)] += 1
    for number in range(1, len(sizes)):
        places[number] = places[number - 1] + sizes[number - 1]
    for row in range(len(high)):
        number = (high[row] >> np.uint64(1)) >> (np.uint64(63) - bits)
        order[places[number]] = row
        places[number] += 1


def duplicates(rows: pl.DataFrame, steps: Sequence[Dedupe]) -> pl.Series:
    """`duplicate_<step>` for each row that another one stands for, else null (String, in the order of the rows).

    Of the rows of one uid, or of one url and caption (in any case), one that is not in capitals stays, then that from the
    best source (SOURCE_RANK). Of the captions of one url the one stays that has FULL_CAPTION_WORDS words, then one that is
    not in capitals, then that from the best source, then the one with more words (up to LONG_CAPTION_WORDS). Of the urls of
    one caption the same, which leaves the one of the smallest uid. What is still equal is decided by the smallest uid, then
    by the smallest hash of where it was found, and at last by position, which can only tell apart rows that are the same in
    all this.

    Args:
        rows: columns of KEYS.
        steps: those to take; in the order of DEDUPE_STEPS, whatever the order given.
    """
    by_source = [pl.col("capitals"), pl.col("source_rank")]
    best = [
        pl.col("words") < FULL_CAPTION_WORDS,
        *by_source,
        -pl.col("words").clip(upper_bound=LONG_CAPTION_WORDS).cast(pl.Int32),
    ]
    last = [pl.col("uid_high"), pl.col("uid_low"), pl.col("source_rank"), pl.col("origin"), pl.col("place")]
    left = rows.select(list(KEYS)).with_row_index("place").filter(_several(rows, steps))
    gone: list[pl.DataFrame] = []
    for step in DEDUPE_STEPS:
        if step not in steps:
            continue
        group = _GROUPS[step]
        several = left.filter(pl.len().over(group) > 1)  # few, where sorting all would cost most of the time
        order = by_source if step in ("uid", "pair") else best
        stays = several.sort(*order, *last).unique(group, keep="first")["place"]
        leaving = several.filter(~pl.col("place").is_in(stays.implode()))
        gone.append(leaving.select("place", reason=pl.lit(f"duplicate_{step}")))
        left = left.join(leaving.select("place"), on="place", how="anti")
    reasons = pl.Series("drop_reason", [None], pl.String).new_from_index(0, rows.height)
    for leaving in gone:
        reasons = reasons.scatter(leaving["place"], leaving["reason"])
    return reasons
