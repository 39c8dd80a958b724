"""Find the clusters of the images that `curate.clusters.targets` names.

The images are stored as shards, so that their features are computed and kept like those of the pairs.
"""

import io
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa

from dataops.errors import ConfigError
from dataops.shards.tar import ShardWriter
from dataops.snapshot import Draft, fetch_table
from plugins.scores.clusters.vectors import Centroids, join_features
from plugins.scores.compute import Lookup, ShardImages, read_found
from tasks.curate.config import find_evaluation_files
from tasks.curate.evaluation_overlap import read_files
from tasks.curate.stage import IMAGES

SHARD_IMAGES = 1000
TARGET_CLUSTERS = "_work/target-clusters.parquet"
"""Scratch table of the clusters that have targets: `image_cluster`."""
_EXTENSION = "image"


def put_target_images(draft: Draft, paths: Sequence[str]) -> tuple[list[ShardImages], int]:
    """Write the target images as shards of SHARD_IMAGES; return these and the number of files.

    Files that are no images have no feature later.
    """
    files = (data for path in paths for _, data in read_files(find_evaluation_files(path), "curate.clusters.targets"))
    shards, count = list[ShardImages](), 0
    for images in _cut(files):
        shards.append(_put_shard(draft, f"target-{len(shards):05d}", images))
        count += len(images)
    return shards, count


def _cut(images: Iterator[bytes]) -> Iterator[list[bytes]]:
    return iter(lambda: list(islice(images, SHARD_IMAGES)), [])


def _put_shard(draft: Draft, number: str, images: list[bytes]) -> ShardImages:
    sink, rows = io.BytesIO(), list[tuple[str, str, str]]()
    writer = ShardWriter(sink)
    for position, data in enumerate(images):
        key = f"{position:09d}"
        writer.write(key, {_EXTENSION: data})
        rows.append((key, "", blake2b(data, digest_size=16).hexdigest()))
    writer.close()
    tar = draft.put_bytes(f"_work/{number}.tar", sink.getbuffer(), len(images))
    columns = dict(zip(IMAGES.names, zip(*rows, strict=True), strict=True))
    table = draft.put_table(f"_work/{number}.parquet", pa.table(columns, schema=IMAGES))
    return ShardImages(number, draft.path(tar.name), _EXTENSION, draft.path(table.name))


def put_target_clusters(draft: Draft, lookup: Lookup, batches: range, centroids_name: str) -> int:
    """Write TARGET_CLUSTERS, the nearest cluster of each target image; return the number of the images.

    Args:
        batches: numbers of the batches of target images in the lookup.

    Raises: ConfigError if no target image can be decoded.
    """
    centroids = Centroids.of_table(fetch_table(draft.store, draft.path(centroids_name)))
    found, count = set[int](), 0
    for batch in batches:
        features = read_found(draft, lookup, batch)["feature"].drop_null().to_pylist()
        if features and len(centroids.centroid_KD):
            found.update(centroids.find_nearest(join_features(features))[0].tolist())
        count += len(features)
    if not count:
        raise ConfigError("curate.clusters.targets: no image can be decoded")
    draft.put_table(TARGET_CLUSTERS, pa.table({"image_cluster": pa.array(sorted(found), pa.int32())}))
    return count


def is_on_target(draft: Draft, clusters: np.ndarray) -> np.ndarray:
    """Return for each cluster of an array whether it has a target."""
    return np.isin(clusters, fetch_table(draft.store, draft.path(TARGET_CLUSTERS))["image_cluster"].to_numpy())
