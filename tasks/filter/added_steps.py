"""Define what a plugin adds to the filter stage: maps between the deduplication and the balancing of pairs.

An entry point of the group `pairmill.filter_steps` names an AddedStep. A config uses it if its table is set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
from pydantic import BaseModel

from dataops import plugins
from dataops.schema import DropReason
from tasks.lists.locations import OPT_OUT_LIST
from tasks.reports import drop_reasons

Units = tuple[str, str, int]
"""Of an exchange: the units that write it, those that read it, and the expected bytes of a row."""


class Map(NamedTuple):
    """A map over units of the rows, then the merges of what it wrote."""

    units: Sequence[tuple[Any, ...]]
    """The inputs of each unit."""
    function: Callable[..., Any]
    """Of a Draft and a FilterStep."""
    exchanges: Sequence[str] = ()
    """Exchanges that the map writes."""
    is_ordered: bool = False
    """True if each task reads what those before it wrote."""


@dataclass(frozen=True, kw_only=True)
class AddedStep:
    """Define the maps of a plugin, which drop rows for one reason."""

    reason: str
    description: DropReason
    table: str
    """Name of its table in `[filter]`."""
    config: type[BaseModel]
    maps: Callable[[Any, Sequence[tuple[Any, ...]]], list[Map]]
    """Returns the maps of a FilterJob in their order, given its batches."""
    exchanges: Callable[[Any], Mapping[str, Units]]
    """Returns the exchanges of its maps for its table."""
    reason_tables: tuple[str, ...]
    """Exchanges with the rows that it drops, by batch (`put_dropped`)."""
    row_bytes: Callable[[Any], int]
    """Returns, for its table, the maximum bytes that all partitions together hold of one row."""
    units: Callable[[int, int], Mapping[str, int]] = lambda rows, memory_bytes: {}
    """Returns the number of its own units, by name, for a number of rows and the memory of all workers."""
    kinds: tuple[str, ...] = ()
    """Kinds of the tables that a dataset that grows keeps for it (tasks/growth/tables.py). Without any, no dataset with
    this step grows."""
    keep: Callable[[Any, pl.DataFrame], Mapping[str, pa.Table]] = lambda config, pairs: {}
    """Returns, for its table and the pairs that a version adds (uid, url, caption), the rows of its tables."""
    order: int = 100
    version: int = 1
    """Raise it if it drops other rows for the same config."""


def used_steps(config: BaseModel) -> list[tuple[AddedStep, Any]]:
    """Return the added steps whose table a config sets, with the table."""
    steps: list[AddedStep] = list(plugins.load("filter_steps").values())
    return [(step, table) for step in steps if (table := getattr(config, step.table)) is not None]


def kinds_of_rows(config: Any) -> list[str]:
    """Return the kinds of tables, beside `urls`, that a dataset that grows needs for a config of the filter."""
    return [
        *(["captions"] if "caption" in config.dedupe else []),
        *(["caption_counts"] if config.max_caption_count is not None else []),
        *(["queries"] if config.balance is not None else []),
        *(kind for step, _ in used_steps(config) for kind in step.kinds),
    ]


LANGUAGE, BOILERPLATE, SEEN = "language", "boilerplate", "seen"
DUPLICATE = "duplicate_"
"""Prefix of the reasons of deduplication; the rest is one of DEDUPE_STEPS."""
URL_DUPLICATE = f"{DUPLICATE}url"
NO_QUERY, BALANCED = "no_query", "balanced"

AFTER_RULES = {
    OPT_OUT_LIST: drop_reasons.OPT_OUT_LIST,
    LANGUAGE: DropReason(
        "The caption's language is not one of `filter.languages`, or the probability is too low.",
        "`filter.language_min_score`, `filter.language_candidates`, `filter.language_page_weight`",
    ),
    BOILERPLATE: DropReason("The caption occurs too often.", "`filter.max_caption_count`"),
    SEEN: DropReason("An earlier version of the dataset has requested the URL.", "`grow.base`"),
    f"{DUPLICATE}uid": DropReason("Another row has the same URL and caption."),
    f"{DUPLICATE}pair": DropReason(
        "Another row has the same URL and caption, except for upper and lower case.", "`filter.dedupe`"
    ),
    URL_DUPLICATE: DropReason("Another row has the same URL.", "`filter.dedupe`"),
    f"{DUPLICATE}caption": DropReason("Another row has the same caption.", "`filter.dedupe`"),
}
BALANCING = {
    NO_QUERY: DropReason("The caption matches no query.", "`filter.balance.keep_unmatched`"),
    BALANCED: DropReason(
        "No query of the caption sampled the row (offline balancing).",
        '`filter.balance.max_per_query`, or `filter.balance.mode = "online"`',
    ),
}
