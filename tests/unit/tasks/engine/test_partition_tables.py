"""Scratch tables in pieces: what is read is what was written, from tables of numbers and from others."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.errors import CorruptPart, StorageError
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tasks.engine.partition_tables import (
    partition_by_hash,
    partition_by_index,
    read_one,
    read_partition,
    table_name,
    write_partitions,
)

NUMBERS = {
    "hash": pl.UInt64,
    "row": pl.UInt32,
    "rank": pl.UInt16,
    "reason": pl.UInt8,
    "place": pl.Int64,
    "p": pl.Float32,
}
ROW = st.tuples(
    *(st.integers(0, 2**bits - 1) for bits in (64, 32, 16, 8)), st.integers(-(2**63), 2**63 - 1), st.floats(width=32)
)
PIECES = 3
TABLES = st.lists(st.lists(st.lists(ROW, max_size=4), min_size=PIECES, max_size=PIECES), min_size=1, max_size=5)


def draft_in(folder: Path) -> Draft:
    return Draft(FolderStore(folder), "filter", "0" * 16)


def framed(rows: list[tuple[object, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=NUMBERS, orient="row")


@given(TABLES, st.sampled_from(["numbers", "texts", "nulls", "both"]))
def test_read_partition_returns_the_written_rows(tmp_path_factory: pytest.TempPathFactory, tables, kind: str):
    draft = draft_in(tmp_path_factory.mktemp("store"))

    def columns(number: int) -> list[pl.Expr]:
        kinds = ["texts", "nulls", "numbers"] if kind == "both" else [kind]
        this = kinds[number % len(kinds)]
        null = pl.when(pl.col("hash") % 2 == 0).then(pl.col("rank")) if this == "nulls" else pl.col("rank")
        return [*(pl.col(name) for name in NUMBERS if name != "rank"), null.alias("rank")] + (
            [pl.col("hash").cast(pl.String).alias("text")] if kind == "texts" else []
        )

    written = [[framed(rows).select(columns(i)) for rows in pieces] for i, pieces in enumerate(tables)]
    for number, pieces in enumerate(written):
        write_partitions(draft, table_name("kind", number), pl.concat(pieces), [piece.height for piece in pieces])
    names = [table_name("kind", number) for number in range(len(tables))]
    for number in range(PIECES):
        expected = [pieces[number] for pieces in written]
        parts = [part for part, piece in enumerate(expected) for _ in range(piece.height)]
        whole = pl.concat(expected).with_columns(part=pl.Series(parts, dtype=pl.UInt32))
        assert read_partition(draft, names, number).equals(whole)
        assert all(read_one(draft, name, number).equals(one) for name, one in zip(names, expected, strict=True))


def test_write_partitions_writes_one_partition_without_sizes(tmp_path: Path):
    draft, rows = draft_in(tmp_path), pl.DataFrame({"why": ["a", None], "row": [1, 2]})
    write_partitions(draft, "verdicts", rows)
    assert read_one(draft, "verdicts", 0).equals(rows)


@pytest.mark.parametrize("cut", [1, 70, 90, 110, 140, 1000])
def test_read_one_names_the_remedy_when_a_table_is_truncated(tmp_path: Path, cut: int):
    draft = draft_in(tmp_path)
    write_partitions(draft, "keys", pl.DataFrame({"row": range(20)}, schema={"row": pl.UInt32}), [10, 10])
    path = draft.store.local(draft.scratch("keys"))
    path.write_bytes(path.read_bytes()[: max(path.stat().st_size - cut, 0)])
    with pytest.raises(CorruptPart, match=r"keys is not a whole scratch table; delete its folder"):
        read_one(draft, "keys", 1)


def test_read_one_raises_when_a_partition_is_missing(tmp_path: Path):
    draft = draft_in(tmp_path)
    write_partitions(draft, "keys", pl.DataFrame({"row": [1]}))
    with pytest.raises(CorruptPart, match="keys is not a whole"):
        read_one(draft, "keys", 1)
    with pytest.raises(StorageError, match="no such object"):
        read_one(draft, "other", 0)


@settings(deadline=None)  # the first is compiled
@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.integers(0, 3))
def test_partition_by_hash_matches_integer_arithmetic(hashes: list[int], bits: int):
    frame = pl.DataFrame({"hash": hashes, "row": range(len(hashes))}, schema={"hash": pl.UInt64, "row": pl.Int64})
    rows, sizes = partition_by_hash(frame, "hash", bits)
    partitions = [value >> (64 - bits) if bits else 0 for value in hashes]
    assert rows["row"].to_list() == sorted(range(len(hashes)), key=lambda row: partitions[row])
    assert sizes == [partitions.count(partition) for partition in range(1 << bits)]


@given(st.lists(st.integers(0, 4), max_size=30))
def test_partition_by_index_keeps_the_order_of_rows(numbers: list[int]):
    frame = pl.DataFrame({"row": range(len(numbers))}, schema={"row": pl.Int64})
    rows, sizes = partition_by_index(frame, pl.Series(numbers, dtype=pl.UInt32), 5)
    assert rows["row"].to_list() == [i for k in range(5) for i, n in enumerate(numbers) if n == k]
    assert sizes == [numbers.count(k) for k in range(5)]
