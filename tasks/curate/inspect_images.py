"""Decode each image of a raw shard once, check its health, and compute its fingerprints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.images import decode as images
from dataops.images.fingerprint import Fingerprint, fingerprint
from dataops.kernels.hashes import hash128
from dataops.parquet import encode_table
from dataops.reasons import Reason
from dataops.regular_files import open_regular
from dataops.shards.tar import read_samples
from dataops.snapshot import Draft, Record, fetch_table, local_part
from dataops.store import Store
from tasks.curate.config import CurateConfig
from tasks.curate.step import list_steps
from tasks.engine.map_progress import report_task
from tasks.growth.tables import mark_earlier

INSPECTED = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("original_area", pa.int64()),
        ("drop_reason", pa.string()),  # from this image alone; null for a good one
        ("phash", pa.uint64()),  # this column and the next two: null if the image cannot be decoded
        ("thumbnail", pa.binary()),
        ("luminance", pa.binary()),  # null too if the config names no evaluation sets
        ("image_digest", pa.string()),  # hex digest of the bytes in the shard; null if the config has no further step
    ]
)


THUMBNAILS = "thumbnails-"
"""Prefix of the parts with the thumbnails of the kept rows, which a dataset that grows has."""


@dataclass(frozen=True)
class RawShard:
    """A raw shard of the download stage."""

    rows: str
    """Name of its Parquet part in the store."""
    size: int
    """Number of its rows."""
    tar: str
    """Name of its tar in the store."""
    sha256: str
    """Of the tar."""
    image_extension: str
    config: CurateConfig

    @property
    def number(self) -> str:
        return self.tar.rpartition("/")[2].removesuffix(".tar")


def inspect_shard(draft: Draft, shard: RawShard) -> Record:
    """Inspect each image of a raw shard; write a scratch table (INSPECTED)."""
    rows, config = fetch_table(draft.store, shard.rows), shard.config
    needs_digest = bool(list_steps(config))
    inspected = [
        {
            **{name: row[name] for name in ("uid", "url", "caption", "source", "sha256")},
            "original_area": row["original_width"] * row["original_height"],
            **inspect_image(data, (row["original_width"], row["original_height"]), config),
            "image_digest": blake2b(data, digest_size=16).hexdigest() if needs_digest else None,
        }
        for row, data in _pair_with_images(draft.store, rows, shard)
    ]
    table = pa.Table.from_pylist(inspected, INSPECTED)
    if config.base is not None:
        table = _drop_earlier(draft.store, table, config)
    data = encode_table(table)
    draft.store.put(draft.path(inspected_name(shard.number)), memoryview(data))
    return Record(task=shard.number)


def _drop_earlier(store: Store, inspected: pa.Table, config: CurateConfig) -> pa.Table:
    """Return the rows of a raw shard, with a drop reason for images that an earlier version of the dataset has."""
    good = np.flatnonzero(inspected["drop_reason"].is_null().to_numpy())
    images = inspected.take(good).select(["sha256", "phash", "thumbnail", "caption"])
    scopes = caption_scopes(images["caption"].to_pylist(), same_caption=config.same_caption)
    distance = config.near_duplicate_distance if config.near_duplicates else None
    images = images.append_column("scope", pa.array(scopes))
    found = mark_earlier(config.base, store, images, distance, config.near_duplicate_tolerance)
    reasons = inspected["drop_reason"].to_pylist()
    for row, reason in zip(good.tolist(), found, strict=True):
        reasons[row] = reason
    place = inspected.schema.get_field_index("drop_reason")
    return inspected.set_column(place, "drop_reason", pa.array(reasons, pa.string()))


def caption_scopes(captions: Sequence[str], *, same_caption: bool) -> NDArray[np.uint64]:
    """Return what must be equal for two rows to be duplicates: a hash of the caption, or 0 if captions do not count."""
    if not same_caption:
        return np.zeros(len(captions), np.uint64)
    folded = [" ".join(caption.casefold().split()) for caption in captions]
    return np.ascontiguousarray(hash128(pa.array(folded, pa.string()))[:, 0])


def inspected_name(number: str) -> str:
    """Return the name of the scratch table (INSPECTED) of a raw shard."""
    return f"_work/inspected-{number}.parquet"


def _pair_with_images(store: Store, rows: pa.Table, shard: RawShard) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield each row of a raw shard with the bytes of its image.

    Raises: CorruptPart if the tar is damaged, or a row has no sample. A sample without a row changes the sum of the uids.
    """
    with open_regular(local_part(store, shard.tar, shard.sha256)) as file:
        samples = read_samples(file, shard.tar)
        for number, row in enumerate(rows.to_pylist()):
            report_task(number / rows.num_rows)
            key, members = next(samples, (None, {}))
            if key != row["key"] or shard.image_extension not in members:
                raise CorruptPart(f"{shard.tar}: found {key!r} where {row['key']}.{shard.image_extension} should be")
            yield row, members[shard.image_extension]


def inspect_image(data: bytes, original_size: tuple[int, int], config: CurateConfig) -> dict[str, Any]:
    """Return the columns of INSPECTED that come from the image itself, and its `drop_reason`."""
    try:
        pixels = images.decode_pixels(data)
    except images.ImageRefused as refused:
        return {"drop_reason": refused.reason}
    found = fingerprint(pixels)
    return {
        "drop_reason": _check_health(found, original_size, config),
        "phash": found.phash,
        "thumbnail": found.thumbnail,
        "luminance": found.luminance if config.overlap else None,
    }


def _check_health(found: Fingerprint, size: tuple[int, int], config: CurateConfig) -> str | None:
    small, large = sorted(size)
    if small < config.min_side:
        return Reason.TOO_SMALL
    if large > config.max_aspect_ratio * small:
        return Reason.ASPECT_RATIO
    if found.contrast < config.min_contrast:
        return Reason.BLANK
    return None
