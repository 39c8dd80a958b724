"""What finds one row among millions: sorted hashes of the rows of some Parquet parts, in Parquet files of their own.

For each kind of name there is a file. Its row groups hold runs of the sorted keys, so their minima and maxima say which
one or two of them can hold a key: a look-up reads a footer and a row group, from a folder or over S3.

    uid, sha256, phash    the first 16 hex digits as a number
    url, page_url         xxh3-64 of the address
    host                  the host's labels in reverse order, as `org.example.www.`: a domain is a prefix; of both addresses

A hash says where to look, never that something is there: the row itself is compared. The same rows give the same bytes.
"""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

Array = np.ndarray

KINDS = ("uid", "url", "page_url", "host", "sha256", "phash")
COLUMNS = ("uid", "url", "page_url", "sha256", "phash")
"""Columns of the parts that an index is made of; one that a stage does not have yet may be missing."""
FORMAT = 1
"""Raised when the files change."""
ROW_GROUP = 1 << 15


class RowPosition(NamedTuple):
    """Where a row is."""

    part: int
    """Place of its part in the list that the index was made of."""
    row: int


def hash_url(url: str) -> int:
    """Key of an address."""
    return xxhash.xxh3_64_intdigest(url.encode("utf-8", "surrogatepass"))


def parse_hex(digits: str) -> int:
    """Key of a uid, sha256 or phash. Raises: ValueError for what is no hex."""
    return int(digits[:16], 16)


def reverse_host(host: str) -> str:
    """A host's labels, last first, each with a dot behind it: all hosts of a domain begin with the domain's key."""
    return "".join(f"{label}." for label in reversed(host.split(".")))


def build_entries(part: int, table: pa.Table) -> dict[str, pa.Table]:
    """The unsorted entries of one part, by kind: `key`, `part`, `row`. Rows with a null have none."""
    entries: dict[str, pa.Table] = {}
    for kind in ("uid", "sha256", "phash"):
        entries[kind] = _entries(part, *_hex_keys(table, kind), pa.uint64())
    for kind in ("url", "page_url"):
        texts = table[kind].to_pylist() if kind in table.column_names else []
        rows = [row for row, text in enumerate(texts) if text]
        keys = np.fromiter((hash_url(texts[row]) for row in rows), np.uint64, len(rows))
        entries[kind] = _entries(part, keys, np.array(rows, np.uint32), pa.uint64())
    entries["host"] = _host_entries(part, table)
    return entries


def _entries(part: int, keys: Array | pa.Array, rows: Array, kind: pa.DataType) -> pa.Table:
    parts = np.full(len(rows), part, np.uint32)
    return pa.table({"key": pa.array(keys, kind), "part": parts, "row": rows.astype(np.uint32)})


def _hex_keys(table: pa.Table, column: str) -> tuple[Array, Array]:
    """The numbers of the first 16 hex digits of a column, and the rows that have them."""
    if column not in table.column_names:
        return np.empty(0, np.uint64), np.empty(0, np.uint32)
    digits = pl.Series(table[column].to_pylist(), dtype=pl.String).str.slice(0, 16)
    numbers = digits.str.pad_start(16, "0").str.decode("hex", strict=False)
    whole = (digits.str.len_bytes() == 16) & numbers.is_not_null()
    rows = whole.fill_null(False).arg_true().to_numpy()
    return np.frombuffer(b"".join(numbers.gather(rows).to_list()), ">u8").astype(np.uint64), rows


def _host_entries(part: int, table: pa.Table) -> pa.Table:
    """Each row once for the image's host, and once more for the page's where that is another."""
    there = [c for c in ("url", "page_url") if c in table.column_names]
    frame = pl.DataFrame({c: pl.Series(table[c].to_pylist(), dtype=pl.String) for c in there})
    hosts = frame.with_row_index("row").unpivot(index="row", value_name="address")
    hosts = hosts.select("row", key=pl.col("address").str.extract(r"^https?://([^/?#:]+)")).drop_nulls().unique()
    reverse = pl.col("key").str.split(".").list.reverse().list.join(".") + "."
    hosts = hosts.with_columns(reverse).sort("row", "key")
    return _entries(part, hosts["key"].to_arrow().cast(pa.string()), hosts["row"].to_numpy(), pa.string())


def write_index(entries: Iterable[pa.Table], file: BinaryIO) -> int:
    """Sort the entries of some parts and write them as a file of the index; how many there are."""
    frame = pl.DataFrame(pl.from_arrow(pa.concat_tables(entries))).sort("key", "part", "row")
    key = pa.string() if frame.schema["key"] == pl.String else pa.uint64()
    table = frame.to_arrow().cast(pa.schema([("key", key), ("part", pa.uint32()), ("row", pa.uint32())]))
    options: dict[str, Any] = {"use_dictionary": ["part", "key"] if key == pa.string() else ["part"]}
    pq.write_table(table, file, row_group_size=ROW_GROUP, compression="zstd", write_page_checksum=True, **options)
    return table.num_rows


class IndexFile:
    """A file of the index, to be asked."""

    def __init__(self, file: BinaryIO):
        self._file = pq.ParquetFile(file, page_checksum_verification=True)

    def find_equal(self, key: int) -> list[RowPosition]:
        """The rows of one hash."""
        return self._between(key, key)

    def find_below(self, domain: str) -> list[RowPosition]:
        """The rows of a domain's hosts, given by its `host_key`; each once."""
        return sorted({*self._between(domain, domain + "\U0010ffff")})

    def find_near(self, key: int, bits: int) -> list[tuple[RowPosition, int]]:
        """The rows whose hash differs in at most so many bits, with the number of bits; the nearest first.

        Reads all of the file: no order brings near hashes together.
        """
        found: list[tuple[RowPosition, int]] = []
        for batch in self._file.iter_batches(1 << 20):
            apart = np.bitwise_count(batch["key"].to_numpy() ^ np.uint64(key))
            for at in np.flatnonzero(apart <= bits).tolist():
                found.append((RowPosition(batch["part"][at].as_py(), batch["row"][at].as_py()), int(apart[at])))
        return sorted(found, key=lambda one: (one[1], one[0]))

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
