"""Query the rows of a view: a page, the number of rows, the values of a column, one row, and clusters of duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataops.errors import ConfigError
from plugins.browse.database import Database, Rows, quote, quote_text
from plugins.browse.filters import Condition, Filter, condition, kind_of, match_terms
from plugins.browse.views import PART_SHIFT, ROW, Dataset, View, shown

PAGE_ROWS, MAX_PAGE_ROWS, MAX_OFFSET = 60, 200, 1_000_000
CARD_COLUMNS = (
    *("uid", "url", "caption", "shard", "key", "width", "height", "original_width", "original_height"),
    *("language", "clip_score", "cluster", "drop_reason", "error_message", "sha256"),
)
"""Columns that a list of rows needs."""
TOP_VALUES, BINS = 20, 24
CLUSTERS, CLUSTER_MEMBERS = 20, 12
"""Number of clusters of a page, and of the rows that it shows of each."""


@dataclass(frozen=True)
class Selection:
    """The rows of a view that a page asks for."""

    view: View
    terms: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    sort: str = ""
    """Column by which the rows are ordered; else they are in the order of the parts."""
    descending: bool = True
    more: Condition = field(default_factory=Condition)
    """A further condition, which no user writes."""

    def __post_init__(self) -> None:
        if self.sort and (self.sort not in self.view.columns or kind_of(self.view.columns[self.sort]) == "other"):
            raise ConfigError(f"sort {self.sort[:40]!r}: there is no such column to order by")

    @property
    def condition(self) -> Condition:
        """The condition of all terms and filters."""
        found = self.more & match_terms(self.terms)
        for one in self.filters:
            found &= condition(one, self.view.columns)
        return found


def count_rows(database: Database, selection: Selection) -> int:
    """Return the number of rows."""
    wanted = selection.condition
    return database.value(f"SELECT count(*) FROM {quote(selection.view.name)} {wanted.where}", wanted.parameters)


def list_rows(database: Database, selection: Selection, offset: int = 0, limit: int = PAGE_ROWS) -> Rows:
    """Return a page of rows with the columns of a card."""
    if not (0 <= offset <= MAX_OFFSET and 0 < limit <= MAX_PAGE_ROWS):
        raise ConfigError(f"a page begins at row 0 to {MAX_OFFSET:,} and has 1 to {MAX_PAGE_ROWS} rows")
    wanted, order = selection.condition, ""
    if selection.sort:
        order = f"ORDER BY {quote(selection.sort)} {'DESC' if selection.descending else 'ASC'} NULLS LAST, {ROW}"
    return database.rows(
        f"SELECT {_card_columns(selection.view)} FROM {quote(selection.view.name)} {wanted.where} {order} "
        f"LIMIT {limit:d} OFFSET {offset:d}",
        wanted.parameters,
    )


def list_numbers(database: Database, selection: Selection) -> NDArray[np.int64]:
    """Return the numbers of all rows, sorted."""
    wanted = selection.condition
    sql = f"SELECT {ROW} FROM {quote(selection.view.name)} {wanted.where}"
    return np.sort(np.asarray(database.column(sql, wanted.parameters), np.int64))


def fetch_rows(database: Database, view: View, numbers: Sequence[int]) -> Rows:
    """Return the rows with these numbers, in their order, with the columns of a card; hidden ones are left out."""
    found = {row[ROW]: row for row in _read(database, view, numbers, _card_columns(view))}
    return [found[number] for number in numbers if number in found]


def fetch_row(database: Database, view: View, number: int, columns: Sequence[str] = ()) -> dict[str, Any] | None:
    """Return one row; None if there is none of this number, or it is hidden.

    Args:
        columns: those of them that the view has are returned; by default all columns.
    """
    names = [quote(column) for column in columns or view.columns if column in view.columns]
    rows = _read(database, view, [number], ", ".join([ROW, *names]))
    return rows[0] if rows else None


def _read(database: Database, view: View, numbers: Sequence[int], columns: str) -> Rows:
    """Return the rows with these numbers from their parts; the other parts are not read."""
    parts = sorted({part for number in numbers if (part := number >> PART_SHIFT) < len(view.paths)})
    if not parts:
        return []
    files = ", ".join(quote_text(str(view.paths[part])) for part in parts)
    number = f"(({parts}::BIGINT[])[file_index::BIGINT + 1] << {PART_SHIFT}) + file_row_number AS {ROW}"
    wanted = f"{ROW} IN ({', '.join(f'{number:d}' for number in numbers)})"
    return database.rows(
        f"SELECT {columns} FROM (SELECT *, {number} FROM read_parquet([{files}], file_row_number = true)) "
        f"WHERE {wanted} {'AND ' + shown(view.name) if view.hides_rows else ''}"
    )


def _card_columns(view: View) -> str:
    return ", ".join([ROW, *(quote(column) for column in CARD_COLUMNS if column in view.columns)])


@dataclass(frozen=True)
class Bin:
    """The number of rows with one value, or with values from `low` to below `high`."""

    rows: int
    value: Any = None
    low: float | None = None
    high: float | None = None


def count_values(database: Database, selection: Selection, column: str) -> list[Bin]:
    """Return the most frequent values of a column, or of a column of many different numbers a histogram."""
    if column not in selection.view.columns or kind_of(selection.view.columns[column]) == "other":
        raise ConfigError(f"column {column[:40]!r}: there is no such column to count the values of")
    kind, name, wanted = kind_of(selection.view.columns[column]), quote(column), selection.condition
    source = f"FROM {quote(selection.view.name)} {wanted.where}"
    if kind == "list":
        source, name = f"FROM (SELECT unnest({name}) AS value {source})", "value"
    if kind == "number":
        facts = database.rows(
            f"SELECT min({name})::DOUBLE AS low, max({name})::DOUBLE AS high, approx_count_distinct({name}) AS many "
            f"{source}",
            wanted.parameters,
        )[0]
        if facts["many"] > TOP_VALUES and facts["high"] > facts["low"]:
            return _histogram(database, name, source, wanted.parameters, facts["low"], facts["high"])
    sql = f"SELECT {name} AS value, count(*) AS rows {source} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {TOP_VALUES}"
    return [Bin(row["rows"], row["value"]) for row in database.rows(sql, wanted.parameters)]


def _histogram(
    database: Database, name: str, source: str, parameters: Sequence[Any], low: float, high: float
) -> list[Bin]:
    step = (high - low) / BINS
    sql = (
        f"SELECT least(floor(({name} - ?::DOUBLE) / ?::DOUBLE), {BINS - 1})::INTEGER AS bin, count(*) AS rows "
        f"{source} GROUP BY 1 HAVING bin IS NOT NULL"
    )
    rows = {row["bin"]: row["rows"] for row in database.rows(sql, [low, step, *parameters])}
    return [Bin(rows.get(n, 0), low=low + n * step, high=low + (n + 1) * step) for n in range(BINS)]


@dataclass(frozen=True)
class Cluster:
    """Pairs that `curate` found to be duplicates of each other."""

    name: str
    size: int
    members: list[tuple[View, dict[str, Any]]]
    """The kept ones first."""


def cluster_views(dataset: Dataset) -> list[View]:
    """Return the views that name clusters: those of curate, else the dataset's own."""
    labels = ["curate.kept", "curate.dropped"] if "curate" in dataset.stages else [dataset.main]
    return [view for label in labels if "cluster" in (view := dataset.view(label)).columns]


def list_clusters(database: Database, views: Sequence[View], offset: int) -> tuple[int, list[Cluster]]:
    """Return the number of clusters of two or more pairs, and a page of them, largest first."""
    if not views:
        return 0, []
    if not 0 <= offset <= MAX_OFFSET:
        raise ConfigError(f"a page begins at cluster 0 to {MAX_OFFSET:,}")
    every = " UNION ALL ".join(f"SELECT cluster FROM {quote(view.name)} WHERE cluster IS NOT NULL" for view in views)
    sizes = f"SELECT cluster, count(*) AS size FROM ({every}) GROUP BY 1 HAVING count(*) > 1"
    number = database.value(f"SELECT count(*) FROM ({sizes})")
    page = database.rows(f"{sizes} ORDER BY size DESC, cluster LIMIT {CLUSTERS} OFFSET {offset:d}")
    names = [row["cluster"] for row in page]
    members: dict[str, list[tuple[View, dict[str, Any]]]] = {name: [] for name in names}
    for view in views if names else ():
        rows = database.rows(
            f"SELECT {_card_columns(view)} FROM {quote(view.name)} WHERE cluster IN (SELECT unnest(?::VARCHAR[])) "
            f"QUALIFY row_number() OVER (PARTITION BY cluster ORDER BY {ROW}) <= {CLUSTER_MEMBERS} ORDER BY {ROW}",
            [names],
        )
        for row in rows:
            members[row["cluster"]].append((view, row))
    return number, [Cluster(row["cluster"], row["size"], members[row["cluster"]][:CLUSTER_MEMBERS]) for row in page]
