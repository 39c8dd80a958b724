"""Balances pairs over queries: samples the captions of frequent queries, and keeps those of rare ones.

Source: Radford et al. 2021, section 2.2 (up to 20,000 pairs a query); Xu et al. 2023, "Demystifying CLIP Data"
    (MetaCLIP), section 3 and algorithm 1. Their random numbers come from a generator. Ours are a hash of pair, query and
seed, so that the sample does not depend on the order of pairs, and another query does not change that of the others.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import Halves, hash128, mix


def count_query_matches(matches: pa.Array, queries: int) -> NDArray[np.int64]:
    """Return the number of captions that each query matches (queries,); `matches` is the result of match_queries."""
    return np.bincount(matches.flatten().to_numpy(zero_copy_only=False), minlength=queries)


def expect_query_matches(matches: pa.Array, queries: int, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the expected number of captions that each query matches, if each caption has its probability (n,)."""
    weights = np.repeat(probabilities, matches.value_lengths().to_numpy(zero_copy_only=False))
    counts = np.bincount(matches.flatten().to_numpy(zero_copy_only=False), weights, queries)
    return counts.astype(np.float64, copy=False)


def hash_queries(queries: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return the hash of each query and the seed (queries,), which enters its random numbers."""
    return hash128(pa.array(queries, pa.large_string()))[:, 0] ^ hash128(pa.array([str(seed)]))[0, 0]


def compute_probabilities(counts: NDArray[np.int64], max_per_query: int) -> NDArray[np.float64]:
    """Return the probability that each query samples a caption that it matches: min(1, max_per_query / count)."""
    return np.minimum(1.0, max_per_query / np.maximum(counts, 1))


def sample_pairs(
    uids: Halves, matches: pa.Array, probabilities: NDArray[np.float64], salts: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Sample each pair with the probability of at least one of the queries that it matches.

    Args:
        probabilities: probability of each query (queries,), from compute_probabilities.
        salts: hash of each query (queries,), from hash_queries.

    Returns: whether each pair is sampled (n,), and the probability of that (n,): 1 - product of (1 - p).
    """
    offsets, numbers = matches.offsets.to_numpy(), matches.values.to_numpy()
    sampled, pair_probabilities = np.zeros(len(matches), np.bool_), np.zeros(len(matches))
    _sample(uids, offsets, numbers, probabilities, salts, sampled, pair_probabilities)
    return sampled, pair_probabilities


@compiled(nogil=True)
def _sample(uids, offsets, numbers, probabilities, salts, sampled, pair_probabilities):
    for i in range(len(sampled)):
        missed = 1.0
        for at in range(offsets[i], offsets[i + 1]):
            probability = probabilities[numbers[at]]
            missed *= 1.0 - probability
            drawn = mix(uids[i, 0] ^ mix(uids[i, 1] ^ mix(salts[numbers[at]])))
            sampled[i] |= (drawn >> np.uint64(11)) * (1.0 / 9007199254740992.0) < probability  # 53 bits, in [0, 1)
        pair_probabilities[i] = 1.0 - missed


def compute_effective_number(counts: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """Return the number of equally frequent queries with the same diversity: exp(entropy of the counts' shares).

    Source: Hill 1973, "Diversity and Evenness", order 1.
    """
    found = counts[counts > 0]
    if not len(found):
        return 0.0
    shares = found / found.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
