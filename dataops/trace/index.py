"""Indexes the rows of Parquet parts by sorted hashes, in Parquet files, to find one row among millions.

There is one file for each kind of key. Its row groups have consecutive sorted keys, so their minima and maxima select
the one or two groups that can have a key: a look-up reads the footer and a row group, from a folder or from S3.

    uid, sha256, phash    the first 16 hex digits as a number url, page_url         xxh3-64 of the URL host
    the labels of the URL's and the page URL's host in reverse order (`org.example.www.`), so that a
                          domain is a prefix

Different values may have the same hash, so the caller compares the row itself. The same rows give the same bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from dataops.schema import CAPTIONS
from dataops.trace.targets import list_captions

Array = np.ndarray

KINDS = ("uid", "url", "page_url", "host", "sha256", "phash")
COLUMNS = ("uid", "url", "page_url", "sha256", "phash", "captions")
"""Columns of the parts that are indexed; parts of early stages lack some."""
FORMAT = 1
"""Version of the file format."""
ROW_GROUP = 1 << 15
"""Rows of a row group."""


class RowPosition(NamedTuple):
    """The position of a row."""

    part: int
    """Index of its part in the list of indexed parts."""
    row: int
    """Index of the row in the part."""


def hash_url(url: str) -> int:
    """Return the key of a URL."""
    return xxhash.xxh3_64_intdigest(url.encode("utf-8", "surrogatepass"))


def parse_hex(digits: str) -> int:
    """Return the key of a uid, sha256 or phash. Raises: ValueError for other characters than hex digits."""
    return int(digits[:16], 16)


def reverse_host(host: str) -> str:
    """Return the key of a host or domain: its labels in reverse order, each with a dot after it."""
    return "".join(f"{label}." for label in reversed(host.split(".")))


def build_entries(part: int, table: pa.Table) -> dict[str, pa.Table]:
    """Return the unsorted entries of one part by kind (columns key, part, row). Rows with a null have none."""
    entries: dict[str, pa.Table] = {}
    for kind in ("uid", "sha256", "phash"):
        entries[kind] = _entries(part, *_hex_keys(table, kind), pa.uint64())
    for kind in ("url", "page_url"):
        texts = table[kind].to_pylist() if kind in table.column_names else []
        rows = [row for row, text in enumerate(texts) if text]
        keys = np.fromiter((hash_url(texts[row]) for row in rows), np.uint64, len(rows))
        entries[kind] = _entries(part, keys, np.array(rows, np.uint32), pa.uint64())
    entries["host"] = _host_entries(part, table)
    if CAPTIONS.name in table.column_names:
        captions, rows = list_captions(table)
        for kind, further in build_entries(part, captions).items():
            parents = pa.array(rows[further["row"].to_numpy()].astype(np.uint32))
            moved = further.set_column(2, "row", parents)
            entries[kind] = pa.concat_tables([entries[kind], moved]).combine_chunks()
    return entries


def _entries(part: int, keys: Array | pa.Array, rows: Array, kind: pa.DataType) -> pa.Table:
    parts = np.full(len(rows), part, np.uint32)
    return pa.table({"key": pa.array(keys, kind), "part": parts, "row": rows.astype(np.uint32)})


def _hex_keys(table: pa.Table, column: str) -> tuple[Array, Array]:
    """Return the first 16 hex digits of a column as numbers, and the indices of the rows that have them."""
    if column not in table.column_names:
        return np.empty(0, np.uint64), np.empty(0, np.uint32)
    digits = pl.Series(table[column].to_pylist(), dtype=pl.String).str.slice(0, 16)
    numbers = digits.str.pad_start(16, "0").str.decode("hex", strict=False)
    whole = (digits.str.len_bytes() == 16) & numbers.is_not_null()
    rows = whole.fill_null(False).arg_true().to_numpy()
    return np.frombuffer(b"".join(numbers.gather(rows).to_list()), ">u8").astype(np.uint64), rows


def _host_entries(part: int, table: pa.Table) -> pa.Table:
    """Return an entry of each row for the host of the URL, and one for the host of the page URL, if it differs."""
    there = [c for c in ("url", "page_url") if c in table.column_names]
    frame = pl.DataFrame({c: pl.Series(table[c].to_pylist(), dtype=pl.String) for c in there})
    hosts = frame.with_row_index("row").unpivot(index="row", value_name="address")
    hosts = hosts.select("row", key=pl.col("address").str.extract(r"^https?://([^/?#:]+)")).drop_nulls().unique()
    reverse = pl.col("key").str.split(".").list.reverse().list.join(".") + "."
    hosts = hosts.with_columns(reverse).sort("row", "key")
    return _entries(part, hosts["key"].to_arrow().cast(pa.string()), hosts["row"].to_numpy(), pa.string())


def write_index(entries: Iterable[pa.Table], file: BinaryIO) -> int:
    """Sort the entries of some parts, write them as a file of the index, and return their number."""
    frame = pl.DataFrame(pl.from_arrow(pa.concat_tables(entries))).sort("key", "part", "row")
    key = pa.string() if frame.schema["key"] == pl.String else pa.uint64()
    table = frame.to_arrow().cast(pa.schema([("key", key), ("part", pa.uint32()), ("row", pa.uint32())]))
    options: dict[str, Any] = {"use_dictionary": ["part", "key"] if key == pa.string() else ["part"]}
    pq.write_table(table, file, row_group_size=ROW_GROUP, compression="zstd", write_page_checksum=True, **options)
    return table.num_rows


class IndexFile:
    """A file of the index."""

    def __init__(self, file: BinaryIO):
        self._file = pq.ParquetFile(file, page_checksum_verification=True)

    def find_equal(self, key: int) -> list[RowPosition]:
        """Return the rows with a key."""
        return self._between(key, key)

    def find_below(self, domain: str) -> list[RowPosition]:
        """Return the rows of the hosts of a domain, each once; `domain` is the result of reverse_host."""
        return sorted({*self._between(domain, domain + "\U0010ffff")})

    def find_near(self, key: int, bits: int) -> list[tuple[RowPosition, int]]:
        """Return the rows within a Hamming distance of a key, with the distance in bits, the nearest first.

        This reads the whole file, since no order brings near hashes together.
        """
        found: list[tuple[RowPosition, int]] = []
        for batch in self._file.iter_batches(1 << 20):
            distances = np.bitwise_count(batch["key"].to_numpy() ^ np.uint64(key))
            for i in np.flatnonzero(distances <= bits).tolist():
                found.append((RowPosition(batch["part"][i].as_py(), batch["row"][i].as_py()), int(distances[i])))
        return sorted(found, key=lambda item: (item[1], item[0]))

    def _between(self, low: int | str, high: int | str) -> list[RowPosition]:
        groups = list(self._groups(low, high))
        if not groups:
            return []
        frame = pl.DataFrame(pl.from_arrow(self._file.read_row_groups(groups)))
        found = frame.filter(pl.col("key").is_between(pl.lit(low), pl.lit(high)))
        return [RowPosition(part, row) for part, row in found.select("part", "row").iter_rows()]

    def _groups(self, low: int | str, high: int | str) -> Iterator[int]:
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(0).statistics
            if statistics is None or (statistics.min <= high and statistics.max >= low):
                yield group
