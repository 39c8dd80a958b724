"""Define what a rule on one row is, and evaluate the registered rules.

A rule is one object in one module, which an entry point of the group `pairmill.rules` names: its
config keys, its drop reason, its Polars expression and its row in docs/reference/drop-reasons.md.
The core's own are in `dataops.rules`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import polars as pl
from pydantic import BaseModel

from dataops import plugins
from dataops.schema import DropReason
from dataops.snapshot import Input
from dataops.text.caption_counts import count_captions

ConfigT = TypeVar("ConfigT", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[ConfigT]):
    """Define a rule on one row."""

    reason: str
    """Drop reason of its rows."""
    meaning: str
    """Why a row was dropped, as a sentence."""
    config: type[ConfigT]
    """Its keys in `[filter]`."""
    drops: Callable[[ConfigT], pl.Expr | Mapping[str, pl.Expr] | None]
    """Returns an expression over the columns of PAIRS and count_captions that is true for the rows to drop, or None if
    the config turns the rule off. A rule with several reasons returns an expression for each; `reason` then has words in
    capitals for what varies."""
    may: Callable[[ConfigT], pl.Expr | None] = lambda _: None
    """Returns a cheap test for a costly rule: false only where `drops` is not true. `drops` is evaluated on the other
    rows only."""
    remedy: str = ""
    """How to keep such rows, where that is not to change one of its keys."""
    inputs: Callable[[ConfigT], Iterable[Input]] = lambda _: ()
    """Returns the data that the rule reads, apart from rows and config, as inputs of the snapshot."""
    order: int = 100
    """The first true rule in this order gives a row's drop reason. The core's own have less than 100."""
    version: int = 1
    """Raise it if the rule drops other rows for the same config."""
    table: None = None

    @property
    def description(self) -> DropReason:
        """The row of docs/reference/drop-reasons.md."""
        keys = ", ".join(f"`filter.{key}`" for key in self.config.model_fields)
        return DropReason(self.meaning, self.remedy or keys)


def evaluate_rules(rows: pl.DataFrame, config: BaseModel, counts: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return whether each rule drops each row: one Boolean column per reason, without nulls, in the order of the rules.

    Args:
        config: `[filter]`, which has the keys of all rules.
        counts: result of count_captions for the captions; computed if None.
    """
    cheap, costly = list[pl.Expr](), dict[str, pl.Expr]()
    for rule in plugins.load("rules").values():
        found, may = rule.drops(config), rule.may(config)
        for reason, drops in ({rule.reason: found} if isinstance(found, pl.Expr) else found or {}).items():
            cheap.append((drops if may is None else may).fill_null(value=False).alias(reason))
            if may is not None:
                costly[reason] = drops
    columns = pl.concat([rows, count_captions(rows["caption"]) if counts is None else counts], how="horizontal")
    dropped = columns.select(cheap)
    return dropped.with_columns(_evaluate_marked(columns, drops, dropped[reason]) for reason, drops in costly.items())


def _evaluate_marked(columns: pl.DataFrame, drops: pl.Expr, may: pl.Series) -> pl.Series:
    """Evaluate a costly rule on the rows that `may` marks."""
    indices = may.arg_true()
    if not len(indices):
        return may
    some = pl.DataFrame([columns[name][indices] for name in set(drops.meta.root_names())])
    return may.scatter(indices, some.select(drops.fill_null(value=False)).to_series())


def first_drop_reason(drops: pl.DataFrame) -> pl.Series:
    """Return the name of the first column that is true in each row (String), or null if none is."""
    first = np.zeros(drops.height, np.uint32)
    for number in range(drops.width, 0, -1):
        first[drops[:, number - 1].to_numpy()] = number
    return pl.Series("drop_reason", [None, *drops.columns], pl.String)[first]
