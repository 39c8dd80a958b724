"""Tables in partitions: what is read is what was written, from tables of numbers and from others."""

from contextlib import contextmanager

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.errors import CorruptPart
from dataops.storage.base import Store
from dataops.storage.partition_file import HEAD_BYTES, encode_partitions, read_partitions
from dataops.store import FolderStore

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
PARTITIONS = 3
TABLES = st.lists(st.lists(st.lists(ROW, max_size=4), min_size=PARTITIONS, max_size=PARTITIONS), min_size=1, max_size=5)


def put(store, name, partitions):
    sizes = [rows.height for rows in partitions]
    store.put_chunks(name, lambda: encode_partitions(pl.concat(partitions), sizes))


@contextmanager
def reading(place, head_bytes=100):
    """Read the blocks of small tables with the head, or as those of large ones: of a folder, or of a remote store.

    Yields: the size of the head.
    """
    with pytest.MonkeyPatch.context() as patch:
        if place == "remote":
            patch.setattr(FolderStore, "read_each_into", Store.read_each_into)
        yield head_bytes if place in ("folder", "remote") else HEAD_BYTES


PLACES = ["head", "folder", "remote"]
NUMBERS_AND_TEXT = pytest.mark.parametrize("place", [*PLACES, "text"])


def put_rows(store, place, partitions):
    """Put a table with 10 rows in each partition; those of `text` are stored as Arrow."""
    rows = pl.DataFrame({"row": range(10)}, schema={"row": pl.UInt32})
    put(store, "keys", [rows.with_columns(caption=pl.lit("a kite")) if place == "text" else rows] * partitions)
    return store.root / "keys"


@given(
    TABLES, st.sampled_from(["numbers", "texts", "nulls", "both"]), st.integers(1, PARTITIONS), st.sampled_from(PLACES)
)
def test_read_partitions_returns_the_written_rows(tmp_path_factory, tables, kind, count, place):
    store = FolderStore(tmp_path_factory.mktemp("store"))

    def columns(number):
        kinds = ["texts", "nulls", "numbers"] if kind == "both" else [kind]
        this = kinds[number % len(kinds)]
        null = pl.when(pl.col("hash") % 2 == 0).then(pl.col("rank")) if this == "nulls" else pl.col("rank")
        return [*(pl.col(name) for name in NUMBERS if name != "rank"), null.alias("rank")] + (
            [pl.col("hash").cast(pl.String).alias("text")] if kind == "texts" else []
        )

    written = [
        [pl.DataFrame(rows, schema=NUMBERS, orient="row").select(columns(i)) for rows in partitions]
        for i, partitions in enumerate(tables)
    ]
    names = [f"a/{number}" for number in range(len(tables))]
    for name, partitions in zip(names, written, strict=True):
        put(store, name, partitions)
    with reading(place, 200 if kind == "numbers" else 1500) as head:
        for first in range(PARTITIONS - count + 1):
            rows, sizes = read_partitions(store, names, first, count, head)
            chosen = [partitions[first : first + count] for partitions in written]
            assert rows.equals(pl.concat(one for partitions in chosen for one in partitions))
            assert sizes.tolist() == [[one.height for one in partitions] for partitions in chosen]


def test_a_table_of_many_partitions_is_read_by_three_requests(tmp_path, monkeypatch):
    store, rows = FolderStore(tmp_path), pl.DataFrame({"row": range(20_000)}, schema={"row": pl.UInt32})
    put(store, "rows", [rows[i : i + 2] for i in range(0, 20_000, 2)])
    requests = []
    for name in ("read_each", "read_each_into"):
        read = getattr(FolderStore, name)
        monkeypatch.setattr(
            FolderStore, name, lambda self, ranges, read=read: (requests.extend(ranges), read(self, ranges))[1]
        )
    found, sizes = read_partitions(store, ["rows"], 9_000, 3)
    assert found["row"].to_list() == list(range(18_000, 18_006))
    assert sizes.tolist() == [[2, 2, 2]]
    assert len(requests) == 3


def write_end(at, end):
    """Return a function that replaces the end of a partition by a number."""
    value = (end % (1 << 64)).to_bytes(8, "little")
    return lambda head, rest: head + rest[: 8 * at] + value + rest[8 * at + 8 :]


DAMAGES = {
    **{f"cut by {n}": lambda head, rest, n=n: (head + rest)[: -n or None] for n in (1, 30, 50, 80, 1000)},
    # The last byte but 44 is in the checksum of the 40 bytes of numbers.
    **{
        f"byte -{n}": lambda head, rest, n=n: head + rest[:-n] + bytes([rest[-n] ^ 0x55]) + rest[-n + 1 :]
        for n in (3, 45)
    },
    **{f"end {at} is {end}": write_end(at, end) for at in (0, 1) for end in (1 << 62, -8, 1 << 63)},
}


@NUMBERS_AND_TEXT
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_read_partitions_names_the_remedy_of_a_damaged_table_and_reserves_no_memory_for_it(tmp_path, damage, place):
    path = put_rows(store := FolderStore(tmp_path), place, 1)
    head, newline, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(damage(head + newline, rest))
    with (
        reading(place) as head_bytes,
        pytest.raises(CorruptPart, match=r"keys is not a whole scratch table; delete its folder"),
    ):
        read_partitions(store, ["keys"], 0, 1, head_bytes)
