"""Read datasets of the Hugging Face kind: Parquet files with the bytes of an image in each row."""

import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import ConfigError
from plugins.own_images.captions import find_caption_names
from plugins.own_images.lists import has_text, is_binary, naming_file, read_row_group_sizes
from plugins.own_images.parquet_batches import iter_batches
from plugins.own_images.reasons import NO_IMAGE
from tasks.files.base import SourceFile
from tasks.web.fetch_error import FetchError

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo")
_BATCH = 16
"""Images that are held at a time."""


def find_image_column(schema: pa.Schema, configured: str | None, where: str) -> str:
    """Return the column with images: structs with `bytes`, or bytes.

    Source: datasets.Image stores a struct of bytes and path, and its features in the metadata of the file.

    Raises: ConfigError that lists the columns and names the key to set.
    """
    usable = [one for one in schema if _bytes_type(one.type)]
    found = [one.name for one in usable if one.name == configured]
    if configured is None:
        declared = _list_features(schema)
        found = [one.name for one in usable if one.name in declared] or [
            one.name for one in usable if one.name.lower() in IMAGE_NAMES or pa.types.is_struct(one.type)
        ]
    if len(found) == 1:
        return found[0]
    what = f"{configured!r} is no column of images" if configured else "several columns" if found else "no column"
    columns = ", ".join(f"{one.name} {one.type}" for one in schema)[:600]
    raise ConfigError(
        f"{where}: {what}{'' if configured else ' of images (a struct with bytes, or bytes)'}; its columns: {columns}. "
        "Choose one with source.image_column"
    )


def _bytes_type(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(one.name == "bytes" and _bytes_type(one.type) for one in kind.fields)
    return is_binary(kind)


def _list_features(schema: pa.Schema) -> list[str]:
    """Return the columns that the metadata of the datasets library declares as images."""
    try:
        features: Mapping[str, Any] = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return []


def read_captions(
    file: SourceFile, image_column: str | None, caption_columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any], list[str]]]:
    """Yield the number of each row, its values without the image, and the columns with captions.

    Raises: UnusableSource, ConfigError.
    """
    with file.local() as path, naming_file(path, file.name):
        schema = pq.read_schema(path)
        find_image_column(schema, image_column, file.name)
        texts = [one.name for one in schema if has_text(one.type)]
        captions = find_caption_names(texts, caption_columns, file.name)
        further = [name for name in ("url", "page_url", "license") if name in texts and name not in captions]
        for start, batch in iter_batches(path, [*captions, *further], 4_096):
            for number, row in enumerate(batch.to_pylist(), start):
                yield number, row, captions


class Spool:
    """The images of some rows, copied into a temporary file in one reading of each Parquet file.

    Args:
        rows: URL, file and number of each row.
        columns: column with the images by file, where the config names one.
        limit: maximum bytes of an image; of a larger one nothing is copied.
    """

    def __init__(
        self,
        rows: Sequence[tuple[str, str, int]],
        files: Mapping[str, SourceFile],
        columns: Mapping[str, str | None],
        limit: int,
    ):
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="pairmill-images-")  # noqa: SIM115  `close` does
        self._spans: dict[str, tuple[int, int]] = {}
        self._limit = limit
        for name, some in groupby(sorted(rows, key=lambda row: (row[1], row[2])), key=lambda row: row[1]):
            if name in files:
                self._copy(files[name], {number: url for url, _, number in some}, columns.get(name))
        self._file.flush()

    def _copy(self, file: SourceFile, urls: Mapping[int, str], column: str | None) -> None:
        with file.local() as path, naming_file(path, file.name):
            name = find_image_column(pq.read_schema(path), column, file.name)
            ends = list(accumulate(read_row_group_sizes(path)))
            groups = sorted({bisect_right(ends, number) for number in urls} - {len(ends)})
            for start, batch in iter_batches(path, [name], _BATCH, groups):
                self._put(batch.column(0), start, urls)

    def _put(self, images: pa.Array, start: int, urls: Mapping[int, str]) -> None:
        for number, value in enumerate(images, start):
            if number in urls:
                found = value["bytes"] if pa.types.is_struct(images.type) and value.is_valid else value
                found = found.value if isinstance(found, pa.DictionaryScalar) else found
                data = found.as_buffer() if found.is_valid else None
                if data is not None:
                    self._spans[urls[number]] = (self._file.tell(), data.size)
                    self._file.write(data if data.size <= self._limit else b"")

    def read(self, url: str) -> bytes:
        """Return an image; of one over the limit, more bytes than it. Safe for many threads. Raises: FetchError."""
        if url not in self._spans:
            raise FetchError(NO_IMAGE, "the row has no bytes of an image")
        at, size = self._spans[url]
        return os.pread(self._file.fileno(), size, at) if size <= self._limit else bytes(self._limit + 1)

    def close(self) -> None:
        """Delete the copies."""
        self._file.close()
