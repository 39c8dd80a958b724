"""Which pictures of a suite are among those that the model was trained on: evaluate's look at the dataset.

A training picture is known by its row, which holds the sha256 of the bytes as fetched and the perceptual hash. Only where a
hash comes near is the picture itself read from its shard, and laid over the evaluation picture. What copies are found, and
how surely: docs/curate.md.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataops.digest import canonical_json, file_sha256
from dataops.images import decode as images
from dataops.images.fingerprint import MATRIX_SIDE, compute_luminance, resize_plane
from dataops.images.near_duplicates import find_close_pairs
from dataops.images.overlap import index_image
from dataops.shards.tar import read_index
from dataops.snapshot import Manifest, read_table
from dataops.store import FolderStore, Store
from tasks.curate.config import OverlapThresholds
from tasks.curate.evaluation_overlap import MATCHES, find_matches
from training.evaluation.samples import Sample
from training.evaluation.sets import EvalSet
from training.evaluation.suite import Suite

INDEX_VERSION = 1
"""Raised when the same pictures are known by something else."""
AT_ONCE = 256
"""Pictures that are held together."""
_INDEXED = pa.schema(
    [
        ("member", pa.string()),  # the sample's key
        ("sha256", pa.string()),
        ("plane", pa.binary()),
        ("hashes", pa.binary()),  # uint64, little-endian
    ]
)
_TEXTS = ("txt", "json")

logger = logging.getLogger(__name__)


def find_overlaps(suite: Suite, store: Store, pack: Manifest, home: Path, workers: int) -> pa.Table:
    """The training pictures that the suite's sets have: MATCHES, `evaluation_set` a task's name, `member` a sample's key.

    Args:
        pack: the dataset that was trained on.
        home: where what is known of a set's pictures is kept for other models.
    """
    trained, likeness = _trained(store, pack), OverlapThresholds()
    found = [MATCHES.empty_table()]
    with ThreadPoolExecutor(workers, "overlap") as pool:
        for task in suite.tasks:
            known_of = index_images(task.data, FolderStore(home / "overlap"), pool)
            names = pa.array([task.name] * known_of.num_rows, pa.string())
            known_of = known_of.append_column("evaluation_set", names)
            near = trained.take(pa.array(_near(known_of, trained, likeness)))
            looked_at = near.append_column("luminance", pa.array(_luminances(near, store, pack, pool), pa.binary()))
            found.append(find_matches(looked_at, known_of, likeness, pool))
            logger.info("evaluate: %d pictures of %s are in the training set", _distinct(found[-1]), task.name)
    order: Any = [(name, "ascending") for name in MATCHES.names]
    return pa.concat_tables(found).sort_by(order)


def _distinct(found: pa.Table) -> int:
    return len(found["member"].unique())


def _trained(store: Store, pack: Manifest) -> pa.Table:
    """The dataset's rows, in the columns that are compared."""
    parts = pack.named("part-", ".parquet")
    tables = [read_table(store, pack.path(part.name)) for part in parts]
    rows = pa.concat_tables(table.select(["uid", "sha256", "phash", "key", "shard"]) for table in tables)
    phash = pa.array(np.array([int(value, 16) for value in rows["phash"].to_pylist()], np.uint64))
    rows = rows.set_column(rows.schema.get_field_index("phash"), "phash", phash)
    return rows.append_column("drop_reason", pa.nulls(rows.num_rows, pa.string())).combine_chunks()


def index_images(data: EvalSet, kept: FolderStore, pool: ThreadPoolExecutor) -> pa.Table:
    """By what the pictures of a split are known (_INDEXED), made once for all models; unreadable ones are left out."""
    files = [[path.relative_to(data.root).as_posix(), file_sha256(path)] for path in data.files()]
    name = f"{sha256(canonical_json([INDEX_VERSION, data.kind, data.split, files]).encode()).hexdigest()[:32]}.parquet"
    if kept.size(name) is not None:
        try:
            return pq.read_table(kept.local(name), schema=_INDEXED)
        except (OSError, pa.ArrowException) as error:
            logger.warning("%s is damaged (%s): its pictures are looked at again", kept.local(name), error)
    samples = data.samples()
    batches = iter(lambda: list(islice(samples, AT_ONCE)), [])
    rows = [row for batch in batches for row in pool.map(_row, batch) if row is not None]
    table = pa.Table.from_pylist(rows, _INDEXED)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    kept.put(name, sink.getvalue().to_pybytes())
    return table


def _row(sample: Sample) -> dict[str, Any] | None:
    try:
        plane, hashes = index_image(images.decode_pixels(sample.image))
    except images.ImageRefused:
        return None
    return {
        "member": sample.key,
        "sha256": sha256(sample.image).hexdigest(),
        "plane": plane.tobytes(),
        "hashes": hashes.astype("<u8").tobytes(),
    }


def _near(known_of: pa.Table, trained: pa.Table, likeness: OverlapThresholds) -> NDArray[np.int64]:
    """The training rows that are worth a look, in order."""
    queries = np.frombuffer(b"".join(known_of["hashes"].to_pylist()), "<u8").astype(np.uint64)
    hashes = trained["phash"].to_numpy()
    digests = set(known_of["sha256"].to_pylist())
    same = [row for row, digest in enumerate(trained["sha256"].to_pylist()) if digest in digests]
    near = [np.unique(pairs[:, 1]) for pairs in find_close_pairs(queries, hashes, likeness.distance)]
    return np.unique(np.concatenate([np.array(same, np.int64), *near]))


def _luminances(rows: pa.Table, store: Store, pack: Manifest, pool: ThreadPoolExecutor) -> list[bytes]:
    """What is laid over evaluation pictures, of each row; rows of a shard come together."""
    found: list[bytes] = []
    for shard, group in groupby(rows.select(["shard", "key"]).to_pylist(), key=lambda row: row["shard"]):
        index = pack.path(f"{shard.removesuffix('.tar')}.idx")
        members = (
            member
            for sample in read_index(store.read(index).decode(), index)
            for extension, member in sample.items()
            if extension not in _TEXTS
        )
        place = {member.key: (member.offset, member.size) for member in members}
        pictures = store.read_ranges(pack.path(shard), [place[row["key"]] for row in group])
        for batch in iter(lambda pictures=pictures: list(islice(pictures, AT_ONCE)), []):
            found += pool.map(_luminance, batch)
    return found


def _luminance(data: bytes) -> bytes:
    return resize_plane(compute_luminance(images.decode_pixels(data)), MATRIX_SIDE).tobytes()
