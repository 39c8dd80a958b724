"""The tables by which a run knows what earlier versions of its dataset have.

    files         a row for each source file that was read: its name and digest
    urls          for each URL that was asked for, with an image or an answer that no retry changes: halves of its hash
    images        for each image of the dataset: 64 bits of the hash of its SHA-256; its phash; `scope`, a hash of the
                  caption where duplicates need equal captions
    places        for the same images: the uid; the version and the row of its thumbnail
    thumbnails    for each image that a version added, in the order of its rows: the bytes

Where the config needs them, and those that added steps of the filter keep:

    captions          halves of the hash of each caption of the dataset
    caption_counts    how often each caption occurred in the rows of all files, after the rules
    queries           hash of each query, and how many captions matched it before balancing

A version adds a table of each kind. All but the thumbnails are merged like the digits of a binary number when one
is added: after 100 versions there are seven at most, and a row has been written again seven times.

Source: the logarithmic method (Bentley and Saxe 1980, "Decomposable searching problems").
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.images.near_duplicates import find_close_pairs
from dataops.kernels.hashes import hash128
from dataops.parquet import encode_table, read_parquet
from dataops.reasons import Reason
from dataops.snapshot import Input
from dataops.store import Store, open_store
from tasks.growth.versions import FOLDER, Table, Version


def _numbers(*columns: str) -> pa.Schema:
    return pa.schema(dict.fromkeys(columns, pa.uint64()))


SCHEMAS = {
    "files": pa.schema([("file", pa.string()), ("digest", pa.string())]),
    "urls": _numbers("url", "url_low"),
    "images": _numbers("sha", "phash", "scope"),
    "places": pa.schema(
        [("uid_high", pa.uint64()), ("uid_low", pa.uint64()), ("version", pa.uint32()), ("row", pa.uint32())]
    ),
    "captions": _numbers("caption", "caption_low"),
    "caption_counts": _numbers("caption", "caption_low", "count"),
    "queries": _numbers("query", "count"),
}
ERASED = (1 << 64) - 1
"""`scope` of an image that a takedown has erased: no other image is like it."""
ROW_GROUP = 1 << 16


def add_rows(store: Store, base: Version, number: int, kind: str, rows: pa.Table) -> list[Table]:
    """Return the tables of a kind of a version: those of its base with these rows, merged with the newest if those are few.

    A table is written before the version that names it; its name has its digest, so that of two runs none overwrites it.
    """
    kept = base.tables_of(kind)
    first, parts = number, [rows]
    while kept and kept[-1].last - kept[-1].first <= number - first:
        older = kept.pop()
        first = older.first
        parts.insert(0, read_table(store, older))
    if not sum(part.num_rows for part in parts):
        return [*kept]
    merged = pa.concat_tables(part.cast(parts[-1].schema) for part in parts)
    if "count" in merged.column_names:
        frame = pl.DataFrame(pl.from_arrow(merged))
        names = frame.columns[:-1]
        merged = frame.group_by(names).agg(pl.col("count").sum()).sort(names).to_arrow()
    data = encode_table(merged.combine_chunks(), ROW_GROUP).to_pybytes()
    return [*kept, put_object(store, base.line, kind, (first, number), merged.num_rows, data, "parquet")]


def put_object(
    store: Store, line: str, kind: str, span: tuple[int, int], rows: int, data: bytes, extension: str
) -> Table:
    """Write the bytes of a table of consecutive versions."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"{FOLDER}/{line}/{kind}-{span[0]:06d}-{span[1]:06d}-{digest[:12]}.{extension}"
    store.put(name, data)
    return Table(kind=kind, first=span[0], last=span[1], name=name, rows=rows, bytes=len(data), sha256=digest)


def read_table(store: Store, table: Table, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of a table. Raises: CorruptPart if they are not those that were written."""
    where = f"{store.uri}/{table.name}"
    with suppress(CorruptPart):  # its remedy is that of a snapshot
        rows = read_parquet(io.BytesIO(store.find(table.name) or b""), where, columns)
        if rows.num_rows == table.rows:
            return rows
    raise CorruptPart(
        f"{where} is missing or damaged; restore it from a backup, or run the config with `--set grow.base=0`, which makes "
        "the dataset again"
    )


def select_new(store: Store, version: Version, inputs: Sequence[Input]) -> list[Input]:
    """Return those of some source files that no version up to this one has read; a file is its name and its digest."""
    known: set[tuple[str, str]] = set()
    for table in version.tables_of("files"):
        rows = read_table(store, table)
        known |= set(zip(rows["file"].to_pylist(), rows["digest"].to_pylist(), strict=True))
    return [one for one in inputs if (one.key, one.digest) not in known]


def mark_earlier(
    version: Version, store: Store, images: pa.Table, distance: int | None, tolerance: int
) -> list[str | None]:
    """Return for each image the reason to drop it as one that an earlier version has; None for one that is new.

    Args:
        images: `sha256`, `phash` (null: not compared by it), `thumbnail`, and `scope`, in which both must agree.
        distance: maximum number of bits in which the hashes of near-duplicates differ; None: only equal bytes count.
        tolerance: maximum difference of their thumbnails in any cell and channel.
    """
    reasons: list[str | None] = [None] * images.num_rows
    known = _load(store.uri, "images", tuple(version.tables_of("images")))
    if not known.height or not images.num_rows:
        return reasons
    sha = np.ascontiguousarray(hash128(images["sha256"].combine_chunks())[:, 0])
    new = pl.DataFrame({"sha": sha, "scope": images["scope"].to_numpy()}).with_row_index("image")
    same = new.join(known.select("sha", "scope").unique(), on=["sha", "scope"], how="semi")
    for row in same["image"]:
        reasons[row] = Reason.EXACT_DUPLICATE
    if distance is None:
        return reasons
    left = [row for row, value in enumerate(images["phash"].to_pylist()) if value is not None and reasons[row] is None]
    queries = images["phash"].take(pa.array(left, pa.int64())).to_numpy().astype(np.uint64)
    scopes, known_scopes = images["scope"].to_numpy(), known["scope"].to_numpy()
    for pairs in find_close_pairs(queries, known["phash"].to_numpy(), distance):
        pairs = pairs[scopes[np.array(left)[pairs[:, 0]]] == known_scopes[pairs[:, 1]]]
        thumbnails = _read_thumbnails(store, version, pairs[:, 1]) if len(pairs) else ()
        for (query, _), thumbnail in zip(pairs.tolist(), thumbnails, strict=True):
            row = left[query]
            if reasons[row] is None and _differ_at_most(images["thumbnail"][row].as_py(), thumbnail, tolerance):
                reasons[row] = Reason.NEAR_DUPLICATE
    return reasons


def _differ_at_most(one: bytes, other: bytes, tolerance: int) -> bool:
    pixels: list[NDArray[np.int16]] = [np.frombuffer(value, np.uint8).astype(np.int16) for value in (one, other)]
    return len(one) == len(other) and int(np.abs(pixels[0] - pixels[1]).max()) <= tolerance


@lru_cache(maxsize=2)
def _load(store_uri: str, kind: str, tables: tuple[Table, ...]) -> pl.DataFrame:
    """Return the rows of all tables of a kind; a worker reads them once."""
    store = open_store(store_uri)
    rows = pa.concat_tables([SCHEMAS[kind].empty_table(), *(read_table(store, table) for table in tables)])
    return pl.DataFrame(pl.from_arrow(rows))


def _read_thumbnails(store: Store, version: Version, images: NDArray[np.int64]) -> Iterator[bytes]:
    objects = {table.first: table for table in version.tables_of("thumbnails")}
    places = _load(store.uri, "places", tuple(version.tables_of("places")))[images]
    ranges: list[tuple[str, int, int]] = []
    for number, row in places.select("version", "row").iter_rows():
        table = objects[number]
        size = table.bytes // table.rows
        ranges.append((table.name, row * size, size))
    for (name, _, size), data in zip(ranges, store.read_each(ranges), strict=True):
        if len(data) != size:
            raise CorruptPart(f"{store.uri}/{name} ends before a thumbnail that it lists; restore it")
        yield data
