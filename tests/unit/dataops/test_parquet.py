"""A file that Python reads is read into memory of Arrow's own: no thread of Arrow frees bytes of Python."""

import io
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataops import parquet

released = list[bool]()


class Watched(bytes):
    """Bytes that record whether they are freed while they are copied, so that Arrow never holds them."""

    def __del__(self) -> None:
        caller = sys._getframe().f_back
        released.append(caller is not None and caller.f_code.co_filename == parquet.__file__)


class File(io.RawIOBase):
    """A file in memory whose reads are watched."""

    def __init__(self, data: bytes):
        super().__init__()
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def read(self, size: int = -1) -> Any:
        start, self._at = self._at, len(self._data) if size < 0 else self._at + size
        return Watched(self._data[start : self._at])


def test_bytes_of_python_are_freed_before_the_read_returns() -> None:
    table = pa.table({name: [f"{name}{n}" for n in range(20_000)] for name in "abcdef"})
    data = io.BytesIO()
    pq.write_table(table, data, row_group_size=1000)
    with parquet.open_parquet(File(data.getvalue()), "here") as file:
        assert file.read(["b", "e"]).equals(table.select(["b", "e"]))
        assert file.read(use_threads=False).equals(table)
    assert len(released) > 2
    assert all(released)
