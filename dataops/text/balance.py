"""Balancing over queries: what many captions speak of is sampled down, what few speak of is kept whole.

Source: Radford et al. 2021, section 2.2 (up to 20,000 pairs a query); Xu et al. 2023, "Demystifying CLIP Data" (MetaCLIP),
section 3 and algorithm 1. There the random numbers come from a generator; here they are a hash of pair, query and seed, so
that the choice depends on no order, and a query that is added to the list changes no other's draws.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import Halves, hash128, mix


def count_query_matches(matches: pa.Array, queries: int) -> NDArray[np.int64]:
    """How many captions each of `queries` queries is found in; `matches` is what query_matching.match gives."""
    return np.bincount(matches.flatten().to_numpy(zero_copy_only=False), minlength=queries)


def expect_query_matches(matches: pa.Array, queries: int, chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same in the mean, where each caption (n,) is there with its own probability."""
    weights = np.repeat(chances, matches.value_lengths().to_numpy(zero_copy_only=False))
    counts = np.bincount(matches.flatten().to_numpy(zero_copy_only=False), weights, queries)
    return counts.astype(np.float64, copy=False)


def hash_queries(queries: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """What each query and the seed bring to a draw."""
    return hash128(pa.array(queries, pa.large_string()))[:, 0] ^ hash128(pa.array([str(seed)]))[0, 0]


def compute_probabilities(counts: NDArray[np.int64], max_per_query: int) -> NDArray[np.float64]:
    """With what probability each query samples a caption that it is found in: min(1, t / count)."""
    return np.minimum(1.0, max_per_query / np.maximum(counts, 1))


def sample_pairs(
    uids: Halves, matches: pa.Array, probabilities: NDArray[np.float64], salts: NDArray[np.uint64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether any of its queries samples each pair (n,), and the probability that one does (n,): 1 - product of 1 - p.

    Args:
        probabilities: of each query, as query_probabilities gives them.
        salts: of each query, as query_salts gives them.
    """
    offsets, numbers = matches.offsets.to_numpy(), matches.values.to_numpy()
    keep, chance = np.zeros(len(matches), np.bool_), np.zeros(len(matches))
    _sample(uids, offsets, numbers, probabilities, salts, keep, chance)
    return keep, chance


@compiled(nogil=True)
def _sample(uids, offsets, numbers, probabilities, salts, keep, chance):
    for i in range(len(keep)):
        missed = 1.0
        for at in range(offsets[i], offsets[i + 1]):
            probability = probabilities[numbers[at]]
            missed *= 1.0 - probability
            drawn = mix(uids[i, 0] ^ mix(uids[i, 1] ^ mix(salts[numbers[at]])))
            keep[i] |= (drawn >> np.uint64(11)) * (1.0 / 9007199254740992.0) < probability  # 53 bits, in [0, 1)
        chance[i] = 1.0 - missed


def compute_effective_number(counts: NDArray[np.int64] | NDArray[np.float64]) -> float:
    """The number of equally frequent queries that would be as diverse: exp of the entropy of the counts' shares.

    Source: Hill 1973, "Diversity and Evenness", order 1.
    """
    found = counts[counts > 0]
    if not len(found):
        return 0.0
    shares = found / found.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
