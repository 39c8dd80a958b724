"""Read and write what removed pairs may have left: their URLs and captions, and digests of their images and previews.

    takedowns/<digest>.traces.json    written before the first deletion, so that a killed call leaves what a search needs

When a search finds nothing more, URLs and captions are deleted from it. Uids and digests stay, so that later calls can
search again, and `download` leaves out rows whose URL was erased.
"""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.parquet import open_parquet
from dataops.store import Store
from dataops.trace.requests import FOLDER
from tasks.takedown.holders import Traces

logger = logging.getLogger(__name__)

WHOLE_BYTES = 64 << 20
"""Size of an object that is read, and searched, at once."""


def traces_name(digest: str) -> str:
    """Return the name in the store of what a request's pairs may have left."""
    return f"{FOLDER}/{digest}.traces.json"


def put_traces(traces: Traces, store: Store, name: str) -> None:
    """Write traces into an object of the store, such as `traces_name` of a request."""
    values = {name: value if name == "images" else sorted(value) for name, value in vars(traces).items()}
    store.put(name, json.dumps(values).encode())


def load_traces(store: Store, request: str) -> Traces:
    """Return the traces of a request; empty ones if there are none. Raises: CorruptPart if they are damaged."""
    return parse_traces(store, traces_name(request))


def parse_traces(store: Store, name: str) -> Traces:
    """Return the traces in an object of the store; empty ones if there is none. Raises: as load_traces."""
    if (data := store.find(name)) is None:
        return Traces()
    try:
        values: dict[str, Any] = json.loads(data)
        texts = {name: set(value) for name, value in values.items() if name != "images"}
        return Traces(**texts, images=dict(values["images"]))  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptPart(f"{store.uri}/{name} holds no traces; delete it, and repeat the takedown") from error


def is_in(column: pa.ChunkedArray | pa.Array, values: set[str]) -> NDArray[np.bool_]:
    """Return whether each value of a column is one of the values (N,)."""
    options = pc.SetLookupOptions(pa.array(sorted(values), pa.string()))
    found = pc.call_function("is_in", [column.cast(pa.string())], options)
    return np.array(found.to_numpy(zero_copy_only=False), bool)


@contextmanager
def open_whole(store: Store, name: str, size: int) -> Iterator[BinaryIO]:
    """Open an object of this size that is read from begin to end: by one request, unless it is large."""
    is_small = store.is_remote and size <= WHOLE_BYTES
    with io.BytesIO(store.read(name)) if is_small else store.open_once(name) as file:
        yield file


def read_readable(store: Store, name: str, size: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield what `read_groups` yields; nothing, and a warning, for a damaged part, which a search reads as bytes."""
    try:
        with open_whole(store, name, size) as file:
            yield from read_groups(file, f"{store.uri}/{name}", columns)
    except CorruptPart as error:
        logger.warning("%s; its rows are not known", error)


def read_groups(file: BinaryIO, where: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the row groups of a Parquet file one after the other, with those of the columns that it has.

    Raises: CorruptPart that names `where` if it is damaged.
    """
    with open_parquet(file, where) as parquet:
        names = [one for one in parquet.schema_arrow.names if one in columns]
        for group in range(parquet.metadata.num_row_groups):
            yield parquet.read_row_group(group, names)
