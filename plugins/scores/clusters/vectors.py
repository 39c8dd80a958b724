"""Image features in fixed point: their cosines are exact, so they are equal on any device and in any order and batch.

A feature of norm 1 is stored as whole numbers (int16) with a norm of about SCALE. By the inequality of Cauchy and Schwarz,
no partial sum of the dot product of two features is larger than the product of their norms, which is below 2^24. float32
represents each whole number up to 2^24. So a product of matrices in float32 (without TF32) has no rounding error, whatever
the order of its sums. Rounding a feature to whole numbers changes a cosine by about 0.0001.

Shape suffixes: N rows, K clusters, D width of a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Features = NDArray[np.int16]
"""(N, D) features of norm SCALE."""

SCALE = 4000
"""Norm of a feature."""
MAX_WIDTH = 1 << 15
"""Maximum width of a feature: rounding adds at most sqrt(D) / 2 to its norm, which must stay below 2^12."""
FIT_FEATURES = pa.schema([("uid", pa.string()), ("feature", pa.binary())])
"""Features that the clusters are fitted to."""
CENTROIDS = pa.schema([("group", pa.uint32()), ("group_centroid", pa.binary()), ("centroid", pa.binary())])
"""Centroids in two levels: the rows of a group are consecutive. Groups and rows are numbered from 0."""
CHUNK_BYTES = 1 << 26
"""Memory of the dot products of a chunk of rows."""


def round_features(features: NDArray[Any]) -> Features:
    """Return features (N, D) of any norm above 0 in fixed point."""
    norms = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))
    return np.rint(features * (SCALE / norms[:, None])).astype(np.int16)


def join_features(values: Sequence[bytes]) -> Features:
    """Return stored features as an array (N, D)."""
    return np.frombuffer(b"".join(values), "<i2").reshape(len(values), -1 if len(values) else 0)


def split_features(features: Features) -> list[bytes]:
    """Return the bytes that are stored of each feature."""
    return [row.tobytes() for row in features.astype("<i2", copy=False)]


def cosine(dots: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each dot product of two features."""
    return dots / (SCALE * SCALE)


@dataclass(frozen=True, eq=False)
class Centroids:
    """The centroids of clusters in two levels: a row belongs to the nearest centroid of the nearest group."""

    group_GD: Features
    """Centroid of each group."""
    centroid_KD: Features
    """Centroid of each cluster, by group."""
    sizes: NDArray[np.int64]
    """Number of clusters of each group (G,)."""

    @classmethod
    def of_table(cls, table: pa.Table) -> "Centroids":
        """Return the centroids of a table (CENTROIDS)."""
        groups = table["group"].to_numpy()
        firsts = np.flatnonzero(np.diff(groups, prepend=-1))
        group_GD = join_features(table["group_centroid"].take(pa.array(firsts)).to_pylist())
        return cls(group_GD, join_features(table["centroid"].to_pylist()), np.diff(firsts, append=len(groups)))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum(self.sizes).tolist()]

    def find_nearest(
        self, feature_ND: Features, chunk_bytes: int = CHUNK_BYTES
    ) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """Return the cluster of each row (the first of equally near ones), and the dot product with its centroid."""
        group_N = find_nearest(feature_ND, self.group_GD, chunk_bytes)[0]
        cluster_N, dot_N = np.zeros(len(feature_ND), np.uint32), np.zeros(len(feature_ND), np.int32)
        for group in np.unique(group_N).tolist():
            rows, start = np.flatnonzero(group_N == group), self._starts[group]
            of_group = self.centroid_KD[start : self._starts[group + 1]]
            found, dots = find_nearest(feature_ND[rows], of_group, chunk_bytes)
            cluster_N[rows], dot_N[rows] = found + np.uint32(start), dots
        return cluster_N, dot_N


def find_nearest(
    feature_ND: Features, centroid_KD: Features, chunk_bytes: int = CHUNK_BYTES
) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Return the nearest centroid of each row (the first of equally near ones), and their dot product."""
    cluster_N, dot_N = np.zeros(len(feature_ND), np.uint32), np.zeros(len(feature_ND), np.int32)
    transposed_DK = np.ascontiguousarray(centroid_KD.T, np.float32)
    size = max(chunk_bytes // (4 * max(centroid_KD.shape)), 1)
    for start in range(0, len(feature_ND), size):
        chunk = slice(start, start + size)
        dot_BK = feature_ND[chunk].astype(np.float32) @ transposed_DK
        cluster_N[chunk] = dot_BK.argmax(axis=1)
        dot_N[chunk] = dot_BK.max(axis=1)
    return cluster_N, dot_N
