"""Spherical k-means over features in fixed point: the same centroids on any device and any number of threads.

All dot products and sums are of whole numbers, so they have no rounding error (vectors.py). Many clusters are
fitted in two levels: groups, then clusters in each group.

Shape suffixes: N rows, K clusters, D width of a feature.
"""

import logging

import numpy as np
import torch
from torch import Tensor

from plugins.scores.clusters.vectors import round_features
from training.data.keyed_random import draw_permutation, hash_samples

logger = logging.getLogger(__name__)

MOST_FLAT = 512
"""Up to so many clusters are fitted in one level."""
ITERATIONS = 25
SEED_ROWS = 32
"""Number of rows for each cluster among which the first centroids are drawn."""
CHUNK_VALUES = 1 << 24


def fit_levels(
    feature_ND: Tensor,
    clusters: int,
    seed: int,
    device: str,
    most_flat: int = MOST_FLAT,
    chunk_values: int = CHUNK_VALUES,
) -> tuple[Tensor, list[Tensor]]:
    """Return the centroids of groups (G, D), and of the clusters of each group; each cluster has a row.

    Args:
        feature_ND: int16, on the CPU; at least one row.
        clusters: number of clusters; there are fewer where there are fewer different rows.
        most_flat: up to so many clusters are fitted in one level.
        chunk_values: number of float32 values that the dot products, or the sums, of a chunk of rows take.
    """
    groups = 1 if clusters <= most_flat else round(clusters**0.5)
    group_GD, group_N = fit_kmeans(feature_ND, groups, seed, 0, device, chunk_values)
    sizes = torch.bincount(group_N, minlength=len(group_GD)).tolist()
    fine: list[Tensor] = []
    for group, share in enumerate(share_clusters(sizes, clusters)):
        rows = feature_ND if groups == 1 else feature_ND[group_N == group]
        fine.append(fit_kmeans(rows, share, seed, group + 1, device, chunk_values)[0])
        logger.info("group %d of %d: %d clusters of %d images", group + 1, len(sizes), len(fine[-1]), len(rows))
    return group_GD, fine


def share_clusters(sizes: list[int], clusters: int) -> list[int]:
    """Return the number of clusters of each group: at least one, else in proportion to its rows."""
    left, total = max(clusters - len(sizes), 0), sum(sizes)
    shares = [1 + left * size // total for size in sizes]
    by_rest = sorted(range(len(sizes)), key=lambda group: (-(left * sizes[group] % total), group))
    for group in by_rest[: len(sizes) + left - sum(shares)]:
        shares[group] += 1
    return shares


def fit_kmeans(
    feature_ND: Tensor, clusters: int, seed: int, stream: int, device: str, chunk_values: int = CHUNK_VALUES
) -> tuple[Tensor, Tensor]:
    """Return the centroids (K, D) of clusters that have rows, and the nearest one of each row (N,).

    Args:
        stream: number of the fit: fits of other numbers draw other first centroids.
    """
    centroid_KD = _draw_first(feature_ND, clusters, seed, stream)
    cluster_N = torch.full((len(feature_ND),), -1)
    for _ in range(ITERATIONS):
        found_N = find_nearest(feature_ND, centroid_KD, device, chunk_values)
        if torch.equal(found_N, cluster_N):
            break
        cluster_N = found_N
        centroid_KD = _mean_directions(feature_ND, cluster_N, centroid_KD, chunk_values)
    cluster_N = find_nearest(feature_ND, centroid_KD, device, chunk_values)
    used, cluster_N = torch.unique(cluster_N, return_inverse=True)
    return centroid_KD[used], cluster_N


def find_nearest(feature_ND: Tensor, centroid_KD: Tensor, device: str, chunk_values: int = CHUNK_VALUES) -> Tensor:
    """Return the nearest centroid of each row; the first of equally near ones."""
    transposed_DK = centroid_KD.to(device).float().T.contiguous()
    size = max(chunk_values // max(centroid_KD.shape), 1)
    found = [(chunk.to(device).float() @ transposed_DK).argmax(dim=1).cpu() for chunk in feature_ND.split(size)]
    return torch.cat(found)


def _draw_first(feature_ND: Tensor, clusters: int, seed: int, stream: int) -> Tensor:
    """Return the first centroids: rows, each drawn in proportion to its squared distance to the nearest one before.

    Source: Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    rows = draw_permutation(seed, stream, len(feature_ND), "kmeans")[: SEED_ROWS * clusters]
    float_ND = feature_ND[torch.from_numpy(rows)].float()
    norm_N = (float_ND * float_ND).sum(dim=1).long()
    words = hash_samples("kmeans++", seed, stream, np.arange(clusters)).tolist()
    chosen, distance_N = [0], torch.full((len(rows),), torch.iinfo(torch.int64).max)
    for word in words[1:]:
        dot_N = (float_ND @ float_ND[chosen[-1]]).long()
        distance_N = torch.minimum(distance_N, norm_N + norm_N[chosen[-1]] - 2 * dot_N)
        ends_N = distance_N.cumsum(dim=0)
        if not ends_N[-1]:  # no other row is different
            break
        chosen.append(int(torch.searchsorted(ends_N, word % int(ends_N[-1]), right=True)))
    return feature_ND[torch.from_numpy(rows[chosen])]


def _mean_directions(feature_ND: Tensor, cluster_N: Tensor, centroid_KD: Tensor, chunk_values: int) -> Tensor:
    """Return the sum of each cluster's rows, with the norm of a feature; the centroid before where the sum is 0."""
    sum_KD = torch.zeros(centroid_KD.shape, dtype=torch.int64)
    size = max(chunk_values // feature_ND.shape[1], 1)
    for chunk_BD, cluster_B in zip(feature_ND.split(size), cluster_N.split(size), strict=True):
        sum_KD.index_add_(0, cluster_B, chunk_BD.long())
    result_KD, used_K = centroid_KD.clone(), sum_KD.any(dim=1)
    result_KD[used_K] = torch.from_numpy(round_features(sum_KD[used_K].numpy()))
    return result_KD
