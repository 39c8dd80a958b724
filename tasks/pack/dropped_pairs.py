"""Decide which pairs leave a dataset for a takedown or an opt-out list, before its shards are written."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.lists.value_set import ValueSet
from dataops.reasons import Reason
from dataops.trace.targets import COLUMNS, Target, matching_rows
from tasks.lists.opt_outs import DROP_REASON as OPT_OUT_LIST
from tasks.lists.opt_outs import mark_rows, match_rows

TAKEDOWN = Reason.TAKEDOWN
"""`drop_reason` of pairs that a recorded takedown removes."""


class DroppedPair(NamedTuple):
    """A pair that leaves a dataset; its row has no URL and no caption."""

    uid: str
    drop_reason: str = TAKEDOWN
    page_opt_out: str | None = None
    """Names of the opt-out lists that name the pair; of a copy, with the entry and the distance."""


def find_dropped(
    frame: pl.DataFrame,
    takedowns: tuple[Target, ...],
    opt_outs: Sequence[tuple[str, ValueSet]],
    copies: Mapping[int, str],
) -> tuple[NDArray[np.bool_], list[DroppedPair]]:
    """Return which rows a takedown or an opt-out list names, and their reasons.

    Args:
        copies: result of `match_copies`.
    """
    rows = frame.select(column for column in COLUMNS if column in frame.columns).to_arrow()
    mask = matching_rows(rows, takedowns)
    dropped = [DroppedPair(uid) for uid in frame.filter(mask)["uid"].to_list()]
    if opt_outs:
        matches = match_rows(rows, opt_outs)
        of_copies = pl.Series("page_opt_out", list(map(copies.get, range(len(frame)))), pl.String)
        marks = mark_rows(frame.with_columns(of_copies), matches)
        listed = marks.is_not_null().to_numpy() & ~mask
        chosen = zip(frame["uid"].filter(listed), marks.filter(listed), strict=True)
        dropped += [DroppedPair(uid, OPT_OUT_LIST, mark) for uid, mark in chosen]
        mask = mask | listed
    return mask, dropped
