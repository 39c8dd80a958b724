"""Read images of rows from their shards by offset, and return them as small JPEGs.

What is served is always a JPEG that was encoded here from decoded pixels, never the bytes of a member: no SVG, no HTML.
"""

import io
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from dataops.errors import CorruptPart
from dataops.home import private_folder
from dataops.images.decode import ImageRefused, decode_pixels
from dataops.shards.layout import Member
from dataops.shards.tar import format_index, list_members
from dataops.snapshot import Manifest, Part
from dataops.storage.cached_files import mark_used
from plugins.browse.views import Dataset, View

Size = Literal["small", "large"]
SIDES: dict[Size, int] = {"small": 224, "large": 768}
"""Maximum width and height, in pixels."""
MAX_MEMBER, MAX_AREA = 32 << 20, 1 << 24
"""Maximum bytes and pixels of an image that is decoded; the shards' own are mostly 224 pixels wide."""
IMAGES_KEPT, INDEXES_KEPT = 500, 64
"""Numbers of encoded images and of indexes of shards that are kept in memory."""
DECODES_AT_ONCE = 2
IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "avif"})
_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class NoImage(Exception):
    """A row has no image; the message names the reason."""


class Images:
    """The images of rows of any view.

    Args:
        folder: keeps the indexes of shards that have none beside them.
    """

    def __init__(self, dataset: Dataset, folder: Path):
        self._dataset, self._folder = dataset, private_folder(folder)
        self._decodes = threading.BoundedSemaphore(DECODES_AT_ONCE)
        self._encode = lru_cache(IMAGES_KEPT)(self._encode_image)
        self.index = lru_cache(INDEXES_KEPT)(self._read_index)

    def get(self, view: View, row: Mapping[str, Any], size: Size) -> bytes:
        """Return the image of a row as a JPEG.

        Raises: NoImage; StorageError if the store does not answer.
        """
        holder = image_holder(self._dataset, view)
        if holder is None or not row.get("shard") or row.get("status", "success") != "success":
            raise NoImage("no image was fetched for this row")
        return self._encode(holder.stage, str(row["shard"]), str(row["key"]), size)

    def _encode_image(self, stage: str, shard: str, key: str, size: Size) -> bytes:
        data = self.read(stage, shard, key)
        with self._decodes:
            try:
                image = Image.fromarray(decode_pixels(data, MAX_AREA))
            except ImageRefused as error:
                raise NoImage(f"the image cannot be decoded: {error.reason}") from error
            image.thumbnail((SIDES[size], SIDES[size]))
            sink = io.BytesIO()
            image.save(sink, "JPEG", quality=85)
        return sink.getvalue()

    def read(self, stage: str, shard: str, key: str) -> bytes:
        """Return the bytes of a sample's image in a shard of a stage. Raises: NoImage."""
        holder = self._dataset.stages[stage]
        part, member = find_shard(holder, shard), find_image(self.index(stage, shard), key)
        if member is None or member.size > MAX_MEMBER or member.offset + member.size > part.bytes:
            raise NoImage("the shard has no such image, or one that is too large")
        return next(iter(self._dataset.store.read_ranges(holder.path(shard), [(member.offset, member.size)])))

    def _read_index(self, stage: str, shard: str) -> bytes:
        """Return the index of a shard: the one beside it, or one that is written once from its headers."""
        holder, store = self._dataset.stages[stage], self._dataset.store
        part = find_shard(holder, shard)
        if beside := next(iter(holder.named(shard.removesuffix(".tar"), ".idx")), None):
            return store.read(holder.path(beside.name))
        if not re.fullmatch(r"[0-9a-f]{64}", part.sha256):
            raise NoImage("the manifest has no digest of the shard")
        kept = self._folder / f"{part.sha256}.idx"
        with suppress(FileNotFoundError):
            mark_used(kept)
            return kept.read_bytes()
        with store.open(holder.path(shard)) as file:
            try:
                members = list_members(file, shard)
            except CorruptPart as error:
                raise NoImage(str(error)) from error
        samples: dict[str, list[Member]] = {}
        for member in members:
            samples.setdefault(member.key, []).append(member)
        data = format_index(samples.values()).encode()
        unfinished = kept.with_suffix(f".{threading.get_ident()}.tmp")
        unfinished.write_bytes(data)
        unfinished.replace(kept)
        return data


def image_holder(dataset: Dataset, view: View) -> Manifest | None:
    """Return the snapshot whose shards have the images of a view's rows; None if no stage has fetched them."""
    if view.manifest.stage == "pack" and view.side == "kept":
        return view.manifest
    if view.manifest.stage in ("pack", "curate") or view.label == "download.kept":
        return dataset.stages.get("download")
    return None


def find_shard(holder: Manifest, shard: str) -> Part:
    """Return a shard of a snapshot by the name that a row has. Raises: NoImage; a name leads nowhere else."""
    part = next((part for part in holder.parts if part.name == shard and shard.endswith(".tar")), None)
    if part is None:
        raise NoImage(f"the dataset has no shard {shard[:40]!r}")
    return part


def find_image(index: bytes, key: str) -> Member | None:
    """Return the image of a sample by its line in an index, without parsing the others."""
    if not _KEY.fullmatch(key):
        return None
    at = index.find(f" {key}.".encode())
    if at < 0:
        return None
    line = index[index.rfind(b"\n", 0, at) + 1 : index.find(b"\n", at)].decode("ascii", "replace")
    return image_of_line(line)


def image_of_line(line: str) -> Member | None:
    """Return the member of a line of an index that is an image; None if there is none, or the line is damaged."""
    fields = line.split(" ")
    for extension, offset, size, name in zip(*(iter(fields),) * 4, strict=False):
        if extension.lower() in IMAGES and offset.isdecimal() and size.isdecimal():
            return Member(name.partition(".")[0], extension, int(offset), int(size))
    return None
