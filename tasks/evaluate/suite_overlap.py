"""Find the images of a suite that the model was trained on.

A training image is known by its row, which holds the sha256 of the fetched bytes and the perceptual
hash. Only where a hash is close, the image itself is read from its shard and correlated with the
evaluation image. docs/clean/curate.md describes which copies are found, and how reliably.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.digest import canonical_json, file_sha256, text_sha256
from dataops.errors import CorruptPart
from dataops.images.decode import ImageRefused, decode_pixels
from dataops.images.fingerprint import MATRIX_SIDE, compute_luminance, resize_plane
from dataops.images.near_duplicates import find_close_pairs
from dataops.parquet import encode_table, read_parquet
from dataops.shards.tar import read_index
from dataops.snapshot import Manifest, read_parts
from dataops.storage.cached_files import mark_used
from dataops.store import FolderStore, Store
from tasks.curate.config import OverlapThresholds
from tasks.curate.evaluation_overlap import INDEXED, describe_image, find_matches, join_matches
from training.evaluation.samples import Sample
from training.evaluation.sets import EvalSet
from training.evaluation.suite import Suite

INDEX_VERSION = 1
"""Raised when images are indexed by other values."""
BATCH_IMAGES = 256
"""Number of images in memory at a time."""
_INDEXED = INDEXED.remove(0)
"""A set is indexed without its name; the `member` is the key of a sample."""
_TEXTS = ("txt", "json")

logger = logging.getLogger(__name__)


def find_overlaps(suite: Suite, store: Store, packs: Sequence[Manifest], home: Path, workers: int) -> pa.Table:
    """Return the training images that are also in the suite's sets.

    Args:
        packs: the datasets that the model was trained on; one at a time is in memory.
        home: the index of a set is kept there for other models.

    Returns: MATCHES, with the name of a task as `evaluation_set` and the key of a sample as `member`.
    """
    thresholds, found = OverlapThresholds(), list[pa.Table]()
    with ThreadPoolExecutor(workers, "overlap") as pool:
        for pack in packs:
            trained = _read_training_rows(store, pack)
            for task in suite.tasks:
                indexed = index_images(task.data, FolderStore(home / "overlap"), pool)
                names = pa.array([task.name] * indexed.num_rows, pa.string())
                indexed = indexed.append_column("evaluation_set", names)
                candidates = trained.take(pa.array(_find_candidates(indexed, trained, thresholds)))
                luminances = pa.array(_read_luminances(candidates, store, pack, pool), pa.binary())
                found.append(find_matches(candidates.append_column("luminance", luminances), indexed, thresholds, pool))
                count = len(found[-1]["member"].unique())
                logger.info("evaluate: images of %s in the dataset %s: %d", task.name, pack.key, count)
    return join_matches(found)


def _read_training_rows(store: Store, pack: Manifest) -> pa.Table:
    """Return the rows of the dataset, in the columns that are compared."""
    rows = read_parts(store, pack, columns=["uid", "sha256", "phash", "key", "shard"])
    phash = pa.array(np.array([int(value, 16) for value in rows["phash"].to_pylist()], np.uint64))
    rows = rows.set_column(rows.schema.get_field_index("phash"), "phash", phash)
    return rows.append_column("drop_reason", pa.nulls(rows.num_rows, pa.string())).combine_chunks()


def index_images(data: EvalSet, index: FolderStore, pool: ThreadPoolExecutor) -> pa.Table:
    """Return the index of the images of a split (_INDEXED), without those that cannot be decoded.

    Args:
        index: an index is written there once, for all models.
    """
    files = [[path.relative_to(data.root).as_posix(), file_sha256(path)] for path in data.files()]
    name = f"{text_sha256(canonical_json([INDEX_VERSION, data.kind, data.split, files]))[:32]}.parquet"
    if index.size(name) is not None:
        mark_used(path := index.local(name))
        try:
            return read_parquet(path, str(path)).cast(_INDEXED)
        except (OSError, ValueError, CorruptPart) as error:
            logger.warning("%s; its images are indexed again", error)
    samples = data.samples()
    batches = iter(lambda: list(islice(samples, BATCH_IMAGES)), [])
    rows = [row for batch in batches for row in pool.map(_index_sample, batch) if row is not None]
    table = pa.Table.from_pylist(rows, _INDEXED)
    index.put(name, encode_table(table).to_pybytes())
    return table


def _index_sample(sample: Sample) -> dict[str, Any] | None:
    """Return a row of _INDEXED, or None where the image cannot be decoded."""
    try:
        return describe_image(sample.key, sample.image)
    except ImageRefused:
        return None


def _find_candidates(indexed: pa.Table, trained: pa.Table, thresholds: OverlapThresholds) -> NDArray[np.int64]:
    """Return the training rows with an equal sha256 or a close hash, in order."""
    queries = np.frombuffer(b"".join(indexed["hashes"].to_pylist()), "<u8").astype(np.uint64)
    hashes = trained["phash"].to_numpy()
    digests = set(indexed["sha256"].to_pylist())
    equal = [row for row, digest in enumerate(trained["sha256"].to_pylist()) if digest in digests]
    close = [np.unique(pairs[:, 1]) for pairs in find_close_pairs(queries, hashes, thresholds.distance)]
    return np.unique(np.concatenate([np.array(equal, np.int64), *close]))


def _read_luminances(rows: pa.Table, store: Store, pack: Manifest, pool: ThreadPoolExecutor) -> list[bytes]:
    """Return the plane that is correlated with evaluation images, for each row; rows of a shard are adjacent."""
    found: list[bytes] = []
    for shard, group in groupby(rows.select(["shard", "key"]).to_pylist(), key=lambda row: row["shard"]):
        index = pack.path(f"{shard.removesuffix('.tar')}.idx")
        members = (
            member
            for sample in read_index(store.read(index).decode(), index)
            for extension, member in sample.items()
            if extension not in _TEXTS
        )
        spans = {member.key: (member.offset, member.size) for member in members}
        images = store.read_ranges(pack.path(shard), [spans[row["key"]] for row in group])
        for batch in iter(lambda images=images: list(islice(images, BATCH_IMAGES)), []):
            found += pool.map(_compute_plane, batch)
    return found


def _compute_plane(image: bytes) -> bytes:
    return resize_plane(compute_luminance(decode_pixels(image)), MATRIX_SIDE).tobytes()
