"""Find semantic duplicates in clusters: images whose features have a cosine of at least a threshold.

The features of some clusters lie in a file, not in memory.

Source: Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic deduplication", arXiv
2303.09540, algorithm 1. There, a row is dropped for any similar row before it, also for one that is dropped itself. Here,
only kept rows count, so each dropped row has a kept one that is as similar as the threshold.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from plugins.clusters.vectors import SCALE, Features, join_features

BLOCK_ROWS = 1024
"""Number of rows of a block: two blocks are compared at a time."""


def find_duplicates(
    read_tables: Callable[[], Iterator[pl.DataFrame]], min_cosine: float, *, same_caption: bool
) -> pl.DataFrame:
    """Return the rows that are dropped, without their features.

    Args:
        read_tables: yields the rows of clusters: `cluster`, `feature`, and `order`, `uid_high` and `uid_low`, by which they
            are kept: the largest order first, then the smallest uid. It is called twice.
        same_caption: keep or drop the rows of one image, with different captions, together.
    """
    hashed = (table.with_columns(image=pl.col("feature").hash()) for table in read_tables())
    rows = pl.concat(table.drop("feature") for table in hashed).with_row_index("place")
    rows = rows.sort("cluster", "order", "uid_high", "uid_low", descending=[False, True, False, False])
    found: NDArray[np.bool_] = np.zeros(rows.height, np.bool_)
    with tempfile.TemporaryFile(prefix="pairmill-features-") as file:
        feature_ND = _map_features(read_tables(), rows["place"].to_numpy(), file)
        end = 0
        for size in rows.group_by("cluster", maintain_order=True).len()["len"].to_list():
            members, end = slice(end, end + size), end + size
            images = _first_of_each(rows["image"][members]) if same_caption else None
            found[members] = _find_in_cluster(feature_ND[members], images, min_cosine)
    return rows.filter(pl.Series(found))


def _map_features(tables: Iterator[pl.DataFrame], order: NDArray[Any], file: Any) -> NDArray[np.int16]:
    """Write the features of tables to a file, and map it into memory.

    Args:
        order: for each row of the result, its number in the tables.
    """
    place: NDArray[np.int64] = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    feature_ND: NDArray[np.int16] = np.empty((0, 0), np.int16)
    start = 0
    for table in tables:
        features = join_features(table["feature"].to_list())
        if len(features) and not len(feature_ND):
            feature_ND = np.memmap(file, np.int16, "w+", shape=(len(order), features.shape[1]))
        if len(features):
            feature_ND[place[start : start + len(features)]] = features
        start += len(features)
    return feature_ND


def _first_of_each(images: pl.Series) -> NDArray[np.int64]:
    """Return for each row the first one with the same value."""
    first = pl.DataFrame({"image": images}).with_row_index("row").select(pl.col("row").first().over("image"))
    return first["row"].to_numpy().astype(np.int64)


def _find_in_cluster(
    feature_ND: NDArray[np.int16], images: NDArray[np.int64] | None, min_cosine: float
) -> NDArray[np.bool_]:
    """Return the semantic duplicates of a cluster.

    Args:
        images: the first row of each row's image: rows of one image are kept or dropped together. None: each row counts.
    """
    if images is None:
        return find_semantic_duplicates(feature_ND, min_cosine)
    firsts, group = np.unique(images, return_inverse=True)
    return find_semantic_duplicates(feature_ND[firsts], min_cosine)[group]


def dot_threshold(min_cosine: float) -> int:
    """Return the smallest dot product of two features that have this cosine."""
    return math.ceil(min_cosine * SCALE * SCALE)


def find_semantic_duplicates(feature_ND: Features, min_cosine: float) -> NDArray[np.bool_]:
    """Return which rows of a cluster are dropped, each for a kept row before it.

    Args:
        feature_ND: the rows in the order in which they are kept; they may lie in a file that is mapped into memory.
    """
    least, dropped = dot_threshold(min_cosine), np.zeros(len(feature_ND), np.bool_)
    for start in range(0, len(feature_ND), BLOCK_ROWS):
        block_BD = _read(feature_ND, start)
        near = np.zeros(len(block_BD), np.bool_)
        for earlier in range(0, start, BLOCK_ROWS):
            kept_CD = _read(feature_ND, earlier)[~dropped[earlier : earlier + BLOCK_ROWS]]
            near |= (block_BD @ kept_CD.T >= least).any(axis=1)
        is_similar_BB = block_BD @ block_BD.T >= least
        for row in range(len(block_BD)):
            if not near[row]:
                near[row + 1 :] |= is_similar_BB[row, row + 1 :]
        dropped[start : start + BLOCK_ROWS] = near
    return dropped


def _read(feature_ND: Features, start: int) -> NDArray[np.float32]:
    return feature_ND[start : start + BLOCK_ROWS].astype(np.float32)
