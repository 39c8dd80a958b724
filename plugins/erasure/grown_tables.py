"""Erase the fingerprints and thumbnails of removed pairs from the tables of datasets that grow (tasks/growth/tables.py).

The hashes of their URLs stay, so that no later run asks for them again. The objects keep their names, and the versions
their digests: those are the identities by which the keys of snapshots name what was read.
"""

from collections import defaultdict
from dataclasses import dataclass

import polars as pl

from dataops.errors import PairmillError
from dataops.parquet import encode_table
from dataops.snapshot import fetch_table
from dataops.store import Store
from tasks.growth.tables import ERASED, ROW_GROUP
from tasks.growth.versions import FOLDER, Version, list_newest, list_numbers, load_version
from tasks.takedown.holders import Erased, Scope, Traces


@dataclass(frozen=True)
class GrownTables:
    """The objects below `grown/`."""

    order: int = 22

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite the thumbnails, and then the rows by which a killed call finds them again."""
        store, erased = scope.context.store, Erased()
        try:
            found = _find_rows(store, traces.uids)
            erased.objects += _blank_thumbnails(store, found) + _blank_captions(store, traces.uids)
            for name, (images, hit) in found.items():
                store.put(name, encode_table(_blank(images, hit).to_arrow(), ROW_GROUP).to_pybytes())
                erased.objects += 1
        except PairmillError as error:
            erased.refused["grown"] = str(error)
        return erased

    def find(self, traces: Traces, scope: Scope) -> None:
        """Return None: only hashes and zeros remain."""


def _list_versions(store: Store) -> list[Version]:
    return [load_version(store, line, number) for line, number in list_numbers(store, FOLDER)]


def _find_rows(store: Store, uids: set[str]) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Return the rows of each table of images with a removed pair, and the places of these pairs; by name."""
    removed = _split(uids)
    versions = _list_versions(store) if uids else []
    tables = {
        (images.name, places.name)
        for version in versions
        for images, places in zip(version.tables_of("images"), version.tables_of("places"), strict=True)
    }
    found: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
    for name, places_name in sorted(tables):
        places = pl.DataFrame(pl.from_arrow(fetch_table(store, places_name))).with_row_index()
        hit = places.join(removed, on=removed.columns, how="semi")
        if hit.height:
            images = pl.DataFrame(pl.from_arrow(fetch_table(store, name))).with_row_index()
            hit = hit.join(images.filter(pl.col("scope") != ERASED), on="index", how="semi")
            if hit.height:
                found[name] = images, hit
    return found


def _blank_thumbnails(store: Store, found: dict[str, tuple[pl.DataFrame, pl.DataFrame]]) -> int:
    """Overwrite the thumbnails of rows with zeros, and return the number of objects that were changed."""
    places: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name, (_, hit) in found.items():
        for version, row in hit.select("version", "row").iter_rows():
            places[name.split("/")[1], version].add(row)
    tables = {(one.line, table.first): table for one in list_newest(store) for table in one.tables_of("thumbnails")}
    for place, rows in places.items():
        table, data = tables[place], bytearray(store.read(tables[place].name))
        size = len(data) // table.rows
        for row in rows:
            data[row * size : (row + 1) * size] = bytes(size)
        store.put(table.name, bytes(data))
    return len(places)


def _blank_captions(store: Store, uids: set[str]) -> int:
    """Empty the captions of removed pairs in tables that steps of the filter keep, and return how many tables had any."""
    removed, changed = _split(uids), 0
    tables = {table.name for version in _list_versions(store) for table in version.tables} if uids else ()
    for name in sorted(name for name in tables if name.endswith(".parquet")):
        rows = fetch_table(store, name)
        if not {"uid_high", "caption"} <= set(rows.column_names):
            continue
        keys = pl.DataFrame(pl.from_arrow(rows.select([*removed.columns, "caption"]))).with_row_index()
        hit = keys.filter(pl.col("caption") != "").join(removed, on=removed.columns, how="semi")["index"]
        if len(hit):
            empty = pl.Series([""] * len(hit))
            captions = keys["caption"].scatter(hit, empty).to_arrow().cast(rows.schema.field("caption").type)
            rows = rows.set_column(rows.column_names.index("caption"), "caption", captions)
            store.put(name, encode_table(rows, ROW_GROUP).to_pybytes())
            changed += 1
    return changed


def _split(uids: set[str]) -> pl.DataFrame:
    halves = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    return pl.DataFrame(halves, schema={"uid_high": pl.UInt64, "uid_low": pl.UInt64}, orient="row")


def _blank(images: pl.DataFrame, hit: pl.DataFrame) -> pl.DataFrame:
    is_removed = pl.col("index").is_in(hit["index"].implode())
    blank = {"sha": 0, "phash": 0, "scope": ERASED}
    return images.with_columns(
        pl.when(is_removed).then(pl.lit(value, pl.UInt64)).otherwise(pl.col(name)).alias(name)
        for name, value in blank.items()
    ).drop("index")


GROWN = GrownTables()
