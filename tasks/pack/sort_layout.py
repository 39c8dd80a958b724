"""Choose how `pack` sorts rows and images: how many passes, and the sizes of the runs and partitions.

    raw shards -> runs -> training shards                   one pass: a run holds a sample of all partitions
    raw shards -> runs -> merged runs -> training shards    two passes: a merge reads one coarse partition of many runs

A task that reads `run_bytes` of T bytes reads a piece of run_bytes^2 / T of each run. With two passes and C coarse
partitions, a piece is run_bytes / C, and C = sqrt(T / run_bytes) makes the pieces of both passes equal. So run_bytes, the
memory of a task, is the smallest one with pieces of PIECE_BYTES. Whatever T is, pieces do not become smaller, and
the number of requests is proportional to T.
"""

from dataclasses import dataclass
from math import ceil, isqrt, sqrt

import pyarrow as pa

from dataops.schema import CURATED

PIECE_BYTES = 8 << 20
"""Size of the pieces that are read from the runs, in bytes."""
LOCAL_PIECE_BYTES = 64 << 10
"""The same for runs without images in a folder, where a read takes microseconds."""
LOCAL_ROWS = 1 << 24
"""Up to so many rows, images in a folder are read directly to their positions: those reads cost no request, and copies of
all images would double the bytes that are written."""
FINE = 16
"""Partitions of each task that writes training shards; it reads up to two more, at most an eighth of its bytes."""
ROW_BYTES = 1 << 10
"""Expected size of a row without its image, in bytes."""


@dataclass(frozen=True)
class SortLayout:
    """Passes and sizes of a sort. The names of its tasks and runs include it, so another layout reuses none of them."""

    has_images: bool
    """Whether the runs contain the images. Otherwise they are read from the raw shards."""
    run_bytes: int
    """Size of a run, and of what a task has in memory, in bytes."""
    coarse: int
    """Number of coarse partitions of the hashes; 1 without a second pass."""
    fine: int
    """Number of partitions of each coarse one."""
    expected_bytes: int
    """Expected size of all rows, and of the images in the runs, in bytes."""
    columns: pa.Schema = CURATED
    """Columns of the rows: those of curate's kept parts, without further ones of the sort."""

    @property
    def partitions(self) -> int:
        """Number of partitions in all."""
        return self.coarse * self.fine

    @property
    def id(self) -> str:
        """Name of the layout, a part of the names of tasks and objects."""
        return f"{self.run_bytes:x}-{self.coarse}x{self.fine}" + ("" if self.has_images else "-rows")


def choose_layout(
    rows: int,
    image_bytes: int,
    shards: int,
    run_limit_bytes: int,
    *,
    is_remote: bool,
    piece_bytes: int = PIECE_BYTES,
    local_rows: int = LOCAL_ROWS,
) -> SortLayout:
    """Return the layout of a sort.

    Args:
        image_bytes: expected size of all images, in bytes.
        shards: expected number of training shards.
        run_limit_bytes: maximum of `run_bytes`. Where even two passes would need more, the pieces are smaller.
        is_remote: whether each read of the store is a request.
    """
    total = rows * ROW_BYTES
    if not is_remote and rows <= local_rows:
        return SortLayout(False, max(isqrt(total * LOCAL_PIECE_BYTES), LOCAL_PIECE_BYTES), 1, 2 * shards, total)
    total += image_bytes
    run, coarse = max(isqrt(total * piece_bytes), piece_bytes), 1
    if run > run_limit_bytes:
        run = min(ceil((total * piece_bytes**2) ** (1 / 3)), run_limit_bytes)
        coarse = max(round(sqrt(total / run)), 2)
    return SortLayout(True, run, coarse, FINE * max(ceil(total / run / coarse), 1), total)
