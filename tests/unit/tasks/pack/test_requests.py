"""The requests of pack to a remote store grow with the bytes, and not with the square of the rows or with each image."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from dataops.storage.base import Entry, ReadInto
from dataops.store import FolderStore
from tasks.pack import sorted_runs as sort_layout
from tasks.pack import stage
from tests.unit.tasks.dataset_chain import chain, packed, pair

ROWS = (200, 800, 3200)
RAW_SIZE = SHARD_SIZE = 100
PIECE_BYTES, RUN_LIMIT_BYTES = 16 << 10, 110_000


class CountingStore(FolderStore):
    """A folder that counts the requests that a server would get, as dataops/storage/s3.py makes them."""

    is_remote = True

    def __init__(self, root: Path):
        super().__init__(root)
        self.requests, self.run_reads, self._lock = Counter[str](), list[int](), threading.Lock()

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.requests[what] += number

    def size(self, name: str) -> int | None:
        self.count("size")
        return super().size(name)

    def read(self, name: str) -> bytes:
        self.count("read")
        return super().read(name)

    def local(self, name: str, keep_in: Path | None = None) -> Path:
        self.count("fetch", 2)
        return super().local(name, keep_in)

    @contextmanager
    def open_once(self, name: str) -> Iterator[BinaryIO]:
        with super().open(name) as file:
            yield file

    def read_each(self, ranges: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        self.count("range", len(ranges))
        self.run_reads += [size for name, _, size in ranges if name.endswith(".run")]
        return super().read_each(ranges)

    def read_each_into(self, ranges: Sequence[tuple[str, int, Sequence[memoryview]]]) -> Iterator[int]:
        self.count("range", len(ranges))
        return super().read_each_into(ranges)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        self.count("range", len(ranges))
        return super().read_ranges(name, ranges)

    def read_into(self, name: str, places: Sequence[tuple[int, memoryview]]) -> None:
        self.count("image", len(places))
        super().read_into(name, places)

    @contextmanager
    def open_reader(self) -> Iterator[ReadInto]:
        yield self.read_into

    def put(self, name: str, data: bytes | memoryview | Path) -> None:
        self.count("put")
        super().put(name, data)

    def put_chunks(
        self,
        name: str,
        pieces: Callable[[], Iterator[memoryview]],
        *,
        direct: bool = False,
        synced: bool = True,
        sha256: str | None = None,
    ) -> None:
        self.count("put")
        super().put_chunks(name, pieces)

    def entries(self, prefix: str) -> list[Entry]:
        self.count("list")
        return super().entries(prefix)


def pack_counted(folder: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> CountingStore:
    pairs = [pair(n, data=n.to_bytes(3) * 100) for n in range(rows)]
    store = CountingStore(folder)
    manifests = chain(store, pairs, RAW_SIZE)
    store.requests.clear()
    monkeypatch.setattr("tasks.engine.map_parts.open_store", lambda uri: store)
    made = packed(store, folder, manifests, shard_size=SHARD_SIZE)
    assert made.counts.kept == rows
    return store


def test_requests_grow_no_faster_than_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    layouts = list[sort_layout.SortLayout]()

    def choose(*sizes: Any, **options: Any) -> sort_layout.SortLayout:
        layouts.append(sort_layout.choose_layout(*sizes[:3], RUN_LIMIT_BYTES, piece_bytes=PIECE_BYTES, **options))
        return layouts[-1]

    monkeypatch.setattr(stage, "choose_layout", choose)
    counts = list[int]()
    for rows in ROWS:
        store = pack_counted(tmp_path / str(rows), rows, monkeypatch)
        counts.append(store.requests.total())
        assert store.requests["image"] == 0
        assert np.mean(store.run_reads) > PIECE_BYTES / 8
    assert min(layout.coarse for layout in layouts) > 1, "two passes"
    growth = [many / few / 4 for few, many in pairwise(counts)]
    assert max(growth) < 1.2, counts
    assert counts[-1] < ROWS[-1], "fewer than one per image"
