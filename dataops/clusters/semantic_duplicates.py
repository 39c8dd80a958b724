"""Find semantic duplicates in a cluster: images whose features have a cosine of at least a threshold.

Source: Abbas et al. 2023, "SemDeDup: Data-efficient learning at web-scale through semantic deduplication", arXiv
2303.09540, algorithm 1. There, a row is dropped for any similar row before it, also for one that is dropped itself. Here,
only kept rows count, so each dropped row has a kept one that is as similar as the threshold.
"""

import math

import numpy as np
from numpy.typing import NDArray

from dataops.clusters.vectors import SCALE, Features

BLOCK_ROWS = 1024
"""Number of rows of a block: two blocks are compared at a time."""


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
