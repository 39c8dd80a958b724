"""Merge small clusters, and compute the probability with which training samples the pairs of each cluster in an epoch.

Source: Liang et al. 2026, "Dynamic Cluster Data Sampling for Efficient and Long-Tail-Aware Vision-Language Pre-training"
(DynamiCS), arXiv 2604.27932: clusters are sampled anew in each epoch in proportion to a power of their sizes, so large ones
are sampled less, and their order is kept. DynamiCS also repeats pairs of small clusters; here a probability is at most 1.
"""

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from plugins.clusters.vectors import Features


def merge_small_clusters(sizes: Sequence[int], centroid_KD: Features, min_size: int) -> list[int]:
    """Return for each cluster the one that it is merged into: itself, or for a small one that with the nearest centroid.

    The smallest cluster is merged first (of equally small ones, the first), into one that has rows. That one keeps its
    centroid.
    """
    size, into = list(sizes), list(range(len(sizes)))
    alive: NDArray[np.bool_] = np.array(sizes) > 0
    centroids = centroid_KD.astype(np.float32)
    waiting = [(rows, cluster) for cluster, rows in enumerate(size) if 0 < rows < min_size]
    heapify(waiting)
    left = int(alive.sum())
    while waiting and left > 1:
        rows, cluster = heappop(waiting)
        if not alive[cluster] or rows != size[cluster]:
            continue
        alive[cluster] = False
        dots = np.where(alive, centroids @ centroids[cluster], -np.inf)
        target = int(dots.argmax())
        into[cluster], size[target], left = target, size[target] + rows, left - 1
        if size[target] < min_size:
            heappush(waiting, (size[target], target))
    for cluster in range(len(into)):
        while into[into[cluster]] != into[cluster]:
            into[cluster] = into[into[cluster]]
    return into


def compute_probabilities(sizes: Sequence[int], alpha: float, epoch_fraction: float) -> list[float]:
    """Return the probability of each cluster's pairs: min(1, s * n^(alpha - 1)) for n pairs; 1 for an empty cluster.

    `s` is chosen so that an epoch has this share of all pairs in the mean: a cluster has s * n^alpha of them, or all n.
    """
    weights = [float(size) ** (alpha - 1) if size else 0.0 for size in sizes]
    order = sorted((one for one, size in enumerate(sizes) if size), key=lambda one: (-weights[one], one))
    later = [0.0, *accumulate(sizes[one] * weights[one] for one in reversed(order))]
    wanted, scale = epoch_fraction * sum(sizes), math.inf
    for done, one in enumerate(order):  # those that reach 1 first
        scale = wanted / later[len(order) - done]
        if scale * weights[one] < 1:
            break
        wanted, scale = wanted - sizes[one], math.inf
    return [min(1.0, scale * weight) if size else 1.0 for size, weight in zip(sizes, weights, strict=True)]
