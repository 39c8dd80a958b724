"""A flipped bit in a part or a manifest is an error with the remedy, and is not read as other data."""

import io
import random
from collections import Counter

import pyarrow as pa
import pytest

from dataops.errors import CorruptPart
from dataops.parquet import encode_table, read_parquet, read_row_range
from dataops.snapshot import MANIFEST, Draft, find_manifest, load_manifest, read_parts, read_table
from dataops.store import FolderStore
from tests.manifests import build_manifest

ROWS, GROUP = 3000, 1000
REMEDY = "remakes it"
random_ = random.Random(1)
TABLE = pa.table(
    {
        "uid": [f"{random_.getrandbits(128):032x}" for _ in range(ROWS)],
        "caption": [" ".join(f"word{random_.randrange(500)}" for _ in range(8)) for _ in range(ROWS)],
        "width": pa.array([random_.randrange(4000) for _ in range(ROWS)], pa.int32()),
        "preview": pa.array([random_.randbytes(40) if n % 3 else None for n in range(ROWS)], pa.binary()),
    }
)


def flip(data, bit):
    """Return the data with one bit flipped."""
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def count_flips(data, read, expected, flips):
    """Return how many flipped bits, at positions of a seeded generator, are seen, change nothing, or are unseen."""
    chosen, outcomes = random.Random(2), Counter()
    for _ in range(flips):
        try:
            found = read(flip(data, chosen.randrange(8 * len(data))))
        except CorruptPart as error:
            outcomes["seen" if REMEDY in str(error) else "without the remedy"] += 1
        else:
            outcomes["same" if found == expected else "unseen"] += 1
    return outcomes


@pytest.mark.parametrize("columns", [None, ["uid", "width"]])
def test_flipped_bits_of_a_part_are_seen(columns):
    data = encode_table(TABLE, GROUP).to_pybytes()
    expected = TABLE if columns is None else TABLE.select(columns)
    outcomes = count_flips(data, lambda one: read_parquet(pa.BufferReader(one), "part", columns), expected, 240)
    assert outcomes["unseen"] <= 240 / 120, "of the footer, which has no checksum"
    assert not outcomes["without the remedy"]
    assert outcomes["seen"] > (200 if columns is None else 40)


def test_flipped_bits_of_rows_read_by_a_stage_are_seen():
    data = encode_table(TABLE, GROUP).to_pybytes()

    def read(one):
        return read_row_range(pa.BufferReader(one), "part", 1500, 800)

    assert read(data) == TABLE.slice(1500, 800)
    outcomes = count_flips(data, read, TABLE.slice(1500, 800), 240)
    assert outcomes["unseen"] <= 240 / 120


def test_each_flipped_bit_of_a_manifest_is_seen(tmp_path):
    store = FolderStore(tmp_path)
    draft = Draft(store, "filter", "f" * 16)
    part = draft.put_table("part-00000.parquet", TABLE)
    facts = {"seconds": 1.5e-05, "hosts": {"h.example": 3}, "text": "Grüße"}
    manifest = draft.commit(build_manifest("filter", [part], key=draft.key, facts=facts))
    data = store.read(draft.path(MANIFEST))

    def read(one):
        store.put(draft.path(MANIFEST), one)
        return load_manifest(store, "filter", draft.key)

    assert read(data) == manifest
    assert count_flips(data, read, manifest, 500) == {"seen": 500}


def test_part_that_differs_names_how_and_the_remedy(tmp_path):
    store = FolderStore(tmp_path)
    draft = Draft(store, "filter", "f" * 16)
    part = draft.put_table("part-00000.parquet", TABLE)
    manifest = draft.commit(build_manifest("filter", [part], key=draft.key))
    name = manifest.path(part.name)
    data = store.read(name)
    store.put(name, flip(data, 8 * len(data) // 2))
    with pytest.raises(CorruptPart, match=f"{name} is damaged: its sha256 differs.*`run --verify` remakes it"):
        find_manifest(store, "filter", draft.key, verify=True)
    for read in (lambda: read_table(store, name), lambda: read_parts(store, manifest)):
        with pytest.raises(CorruptPart, match=f"{name} is damaged.*`run --verify` remakes it"):
            read()
    store.put(name, data[:-1])
    with pytest.raises(CorruptPart, match=rf"{name} has {len(data) - 1:,} bytes, but {len(data):,} in manifest.json"):
        find_manifest(store, "filter", draft.key)
    store.delete([name])
    with pytest.raises(CorruptPart, match=f"{name} is missing, but manifest.json names it"):
        find_manifest(store, "filter", draft.key)


class Unread(io.FileIO):
    def read(self, size=-1):
        raise AssertionError("a thread of Arrow would free this memory of Python, for which it needs the GIL")

    readall = readinto = read


def test_arrow_reads_a_file_of_python_into_memory_of_its_own(tmp_path):
    data = encode_table(TABLE, GROUP).to_pybytes()
    (tmp_path / "part").write_bytes(data)
    with Unread(tmp_path / "part") as file:
        assert read_parquet(file, "part") == read_parquet(file, "part") == TABLE
    held = io.BytesIO(data)
    table = read_parquet(held, "part")
    held.getbuffer()[:] = bytes(len(data))  # it was copied
    assert table == TABLE
