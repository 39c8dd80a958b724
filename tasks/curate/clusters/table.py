"""Define the part of a curate snapshot that lists its clusters."""

import pyarrow as pa

from dataops.clusters.vectors import CENTROIDS

CLUSTERS_PART = "clusters.parquet"
"""Part of the snapshot with a row for each cluster of k-means (CLUSTERS)."""
CLUSTERS = pa.schema(
    [
        ("image_cluster", pa.int32()),  # the cluster that this one was merged into; its own number if it was not
        ("rows", pa.int64()),  # kept rows of this cluster of k-means, before small ones were merged
        ("semantic_duplicates", pa.int64()),
        ("off_target", pa.int64()),  # rows that are dropped because the cluster has no target
        ("sampling_probability", pa.float32()),
        *CENTROIDS,
    ]
)
COUNTED = [name for name in CLUSTERS.names if name not in CENTROIDS.names]
"""Columns of CLUSTERS without the centroids."""
