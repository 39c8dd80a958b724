"""Erase the fingerprints and thumbnails of removed pairs from the tables of datasets that grow (tasks/growth/tables.py).

The hashes of their URLs stay, so that no later run asks for them again. The objects keep their names, and the versions
their digests: those are the identities by which the keys of snapshots name what was read.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataops.store import Store
from tasks.takedown.holders import Erased, Scope
from tasks.takedown.traces import Traces

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class GrownTables:
    """The objects below `grown/`."""

    order: int = 22

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite the thumbnails, and then the rows by which a killed call finds them again."""
        from dataops.errors import PairmillError
        from dataops.parquet import encode_table
        from tasks.growth.tables import ROW_GROUP

        store, erased = scope.context.store, Erased()
        try:
            found = _find_rows(store, traces.uids)
            erased.objects += _blank_thumbnails(store, found)
            for name, (rows, is_removed) in found.items():
                store.put(name, encode_table(_blank(rows, is_removed).to_arrow(), ROW_GROUP).to_pybytes())
                erased.objects += 1
        except PairmillError as error:
            erased.refused["grown"] = str(error)
        return erased

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: what is left are hashes, and zeros."""


def _find_rows(store: Store, uids: set[str]) -> "dict[str, tuple[pl.DataFrame, pl.Series]]":
    """Return the rows of each table with a removed pair, and which of them are of one; by name."""
    import polars as pl

    from dataops.snapshot import fetch_table
    from tasks.growth.tables import ERASED
    from tasks.growth.versions import FOLDER

    halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    removed = pl.DataFrame(halves, schema={"uid_high": pl.UInt64, "uid_low": pl.UInt64}, orient="row")
    found: dict[str, tuple[pl.DataFrame, pl.Series]] = {}
    for name in store.names(FOLDER) if uids else ():
        if name.split("/")[2].startswith("images-"):
            rows = pl.DataFrame(pl.from_arrow(fetch_table(store, name)))
            hit = rows.with_row_index().join(removed, on=removed.columns, how="semi")
            hit = hit.filter(pl.col("scope") != ERASED)
            if hit.height:
                found[name] = rows, pl.int_range(rows.height, eager=True).is_in(hit["index"].implode())
    return found


def _blank_thumbnails(store: Store, found: "dict[str, tuple[pl.DataFrame, pl.Series]]") -> int:
    """Overwrite the thumbnails of rows with zeros, and return the number of objects that were changed."""
    from tasks.growth.versions import list_newest

    places: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name, (rows, is_removed) in found.items():
        for version, row in rows.filter(is_removed).select("version", "row").iter_rows():
            places[name.split("/")[1], version].add(row)
    tables = {(one.line, table.first): table for one in list_newest(store) for table in one.tables_of("thumbnails")}
    for place, rows in places.items():
        table, data = tables[place], bytearray(store.read(tables[place].name))
        size = len(data) // table.rows
        for row in rows:
            data[row * size : (row + 1) * size] = bytes(size)
        store.put(table.name, bytes(data))
    return len(places)


def _blank(rows: "pl.DataFrame", is_removed: "pl.Series") -> "pl.DataFrame":
    import polars as pl

    from tasks.growth.tables import ERASED

    blank = {"sha_high": 0, "sha_low": 0, "phash": 0, "scope": ERASED}
    return rows.with_columns(
        pl.when(is_removed).then(pl.lit(value, pl.UInt64)).otherwise(pl.col(column)).alias(column)
        for column, value in blank.items()
    )


GROWN = GrownTables()
