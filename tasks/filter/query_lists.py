"""The lists of queries over which filter.balance balances: one for all captions, or one for each language.

Inside the stage, the queries of all lists are numbered through: those of the reference language first, then those of the
other languages by name. The column `query_ids` has the rows of a query in its own list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.errors import ContractError
from dataops.text.balance import find_limit, find_tail_share
from dataops.text.query_building import read_queries
from dataops.text.query_matching import Queries, compile_queries, match_queries
from tasks.filter.config import BalanceConfig


@dataclass(frozen=True, eq=False)
class QueryLists:
    """Lists of queries, by the language of the captions that they match."""

    lists: Mapping[str | None, Queries]
    """The key of a list for captions in any language is None."""

    @cached_property
    def texts(self) -> list[str]:
        """The queries of all lists."""
        return [text for queries in self.lists.values() for text in queries.texts]

    @cached_property
    def spans(self) -> dict[str | None, slice]:
        """The numbers of the queries of each list."""
        ends = np.cumsum([len(queries.texts) for queries in self.lists.values()]).tolist()
        return {name: slice(start, end) for name, start, end in zip(self.lists, [0, *ends], ends, strict=False)}

    def match(self, captions: pl.Series, languages: pl.Series) -> pa.Array:
        """Return the numbers of the queries of each caption's language that match it (list<uint32>), sorted."""
        if None in self.lists:
            return match_queries(captions.to_arrow(), self.lists[None])
        lengths, found = np.zeros(len(captions), np.int64), list[tuple[NDArray[np.int64], pa.Array, int]]()
        for name, span in self.spans.items():
            rows = (languages == name).fill_null(False).arg_true().to_numpy().astype(np.int64)
            matches = match_queries(captions.gather(rows).to_arrow(), self.lists[name])
            lengths[rows] = matches.value_lengths().to_numpy(zero_copy_only=False)
            found.append((rows, matches, span.start))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        numbers = np.empty(starts[-1], np.uint32)
        for rows, matches, first in found:
            inside = np.arange(lengths[rows].sum()) - np.repeat(np.cumsum(lengths[rows]) - lengths[rows], lengths[rows])
            values = matches.flatten().to_numpy(zero_copy_only=False)
            numbers[np.repeat(starts[rows], lengths[rows]) + inside] = values + np.uint32(first)
        return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), pa.array(numbers))

    def to_rows(self, numbers: pa.Array, languages: pl.Series) -> pa.Array:
        """Return the rows in the list of each caption's language for the numbers of queries."""
        return self._shift(numbers, languages, -1)

    def to_numbers(self, rows: pa.Array, languages: pl.Series) -> pa.Array:
        """Return the numbers of queries for their rows in the list of each caption's language."""
        return self._shift(rows, languages, 1)

    def _shift(self, values: pa.Array, languages: pl.Series, sign: int) -> pa.Array:
        if None in self.lists:
            return values
        firsts = {name: span.start for name, span in self.spans.items()}
        first = languages.replace_strict(firsts, default=0, return_dtype=pl.Int64).to_numpy()
        lengths = values.value_lengths().to_numpy(zero_copy_only=False)
        flat = values.flatten().to_numpy(zero_copy_only=False).astype(np.int64) + sign * np.repeat(first, lengths)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(starts), pa.array(flat.astype(np.uint32)))


def load_query_lists(balance: BalanceConfig) -> QueryLists:
    """Read and compile the lists of a config. Raises: ConfigError as read_queries."""
    return _load(tuple(balance.list_paths().items()))


@lru_cache(maxsize=1)
def _load(paths: tuple[tuple[str | None, str], ...]) -> QueryLists:
    return QueryLists({name: compile_queries(read_queries(Path(path))) for name, path in paths})


def compute_limits(counts: NDArray[np.int64], lists: QueryLists, balance: BalanceConfig) -> dict[str, int]:
    """Return the expected number of pairs that a query samples (t), by language.

    The limit of the reference language is max_per_query. That of any other one is such that the queries below it have the
    same share of the matches of their language.

    Source: Chuang et al. 2025, "Meta CLIP 2: A Worldwide Scaling Recipe" (arXiv 2507.22062), section 3 and algorithm 1.

    Args:
        counts: number of captions that each query matches (queries,).

    Raises: ContractError if no caption in the reference language matches a query.
    """
    assert balance.per_language is not None
    reference, limit = balance.per_language.reference, balance.max_per_query
    spans = {str(name): span for name, span in lists.spans.items()}
    if not counts[spans[reference]].any():
        raise ContractError(
            f"filter.balance.per_language: no caption in the reference language {reference} matches a query, so the limits "
            "of the other languages are not defined"
        )
    share = find_tail_share(counts[spans[reference]], limit)
    return {name: limit if name == reference else find_limit(counts[span], share) for name, span in spans.items()}
