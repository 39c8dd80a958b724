"""The order of an epoch's samples, computed a block at a time, so that no rank holds the order of all.

An epoch is its samples sorted by a hash of (seed, epoch, sample), one window after the other. Equal hashes do not occur.
A block is the samples of a window whose hashes are in a range: finding it takes one pass over the hashes of the window.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np

from training.data.keyed_random import draw_permutation, draw_uniforms, hash_samples

BLOCK_SAMPLES = 1 << 23
"""Samples of a block, about: 256 MB while it is sorted, 64 MB after."""
CHUNK_SAMPLES = 1 << 16
"""Samples that are hashed at once: they fit the CPU cache."""


@dataclass(frozen=True, eq=False)
class Sampling:
    """The probability of each of N samples of being drawn in an epoch.

    The draw is a hash of (seed, epoch, identity): it does not depend on where a pair lies in the
    shards, and differs between epochs. So balancing over queries (filter.balance.mode = "online")
    drops no pair.
    """

    probabilities: np.ndarray
    """(N,) in [0, 1]."""
    identities: np.ndarray
    """(N,) uint64, hashes of the pairs' uids; unused where the probability is 1."""

    def drawn(self, seed: int, epoch: int, samples: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return whether each of some samples is drawn in an epoch (samples,)."""
        probabilities = self.probabilities[samples]
        seen = np.ones(len(probabilities), np.bool_)
        uncertain = np.flatnonzero(probabilities < 1)
        numbers = draw_uniforms("sample", seed, epoch, self.identities[samples][uncertain], 1)[:, 0]
        seen[uncertain] = numbers < probabilities[uncertain]
        return seen

    def count(self, seed: int, epoch: int, first: int = 0, end: int | None = None) -> int:
        """Return the number of samples from `first` up to `end` that are drawn in an epoch."""
        chunks = _split(np.array([[first, len(self.probabilities) if end is None else end]]))
        return sum(int(np.count_nonzero(self.drawn(seed, epoch, samples))) for samples in chunks)


@dataclass(frozen=True, eq=False)
class Windows:
    """The shards that are shuffled together, if not all are: an epoch takes some at a time, in random order."""

    sizes: np.ndarray
    """(shards,) number of samples of each."""
    at_once: int
    """Maximum shards of a window; all windows of an epoch are equal to within one."""
    first_shard: int = 0
    """Number of the first of these shards in the index."""
    first_sample: int = 0
    """Number of the first of their samples in the index."""

    @cached_property
    def _ends(self) -> np.ndarray:
        return self.first_sample + np.cumsum(self.sizes)

    def assign(self, seed: int, epoch: int) -> np.ndarray:
        """Return the window of each shard in an epoch (shards,)."""
        shards = len(self.sizes)
        rank = np.empty(shards, np.int64)
        rank[draw_permutation(seed, epoch, shards, "shards", self.first_shard)] = np.arange(shards)
        return rank * -(-shards // self.at_once) // shards

    def find_shards(self, samples: np.ndarray) -> np.ndarray:
        """Return the shard of each sample."""
        return self.first_shard + np.searchsorted(self._ends, samples, side="right")

    def list_ranges(self, seed: int, epoch: int) -> list[np.ndarray]:
        """Return the first sample and the end of each shard of each window of an epoch: (shards of the window, 2)."""
        window = self.assign(seed, epoch)
        order = np.argsort(window, kind="stable")
        ranges = np.stack([self._ends - self.sizes, self._ends], 1)[order]
        return np.split(ranges, np.flatnonzero(np.diff(window[order])) + 1)


class EpochOrder:
    """The order of one epoch.

    Args:
        samples: number of samples of the dataset.
        sampling: None: the epoch has all samples.
        windows: None: all samples are in one window.
        first: number of its first sample in the index.
        block, chunk: maximum samples that are sorted, and hashed, at a time.
    """

    def __init__(
        self,
        seed: int,
        samples: int,
        sampling: Sampling | None,
        windows: Windows | None,
        epoch: int,
        first: int = 0,
        *,
        block: int = BLOCK_SAMPLES,
        chunk: int = CHUNK_SAMPLES,
    ):
        self._seed, self._epoch, self._sampling, self._chunk = seed, epoch, sampling, chunk
        ranges = [np.array([[first, first + samples]])] if windows is None else windows.list_ranges(seed, epoch)
        self._blocks: list[tuple[np.ndarray, int, int]] = []  # ranges of the window, block, blocks of it
        sizes: list[int] = []
        for window in ranges:
            total = int(np.diff(window).sum())
            blocks = max(1, -(-total // block))
            sizes += [total] if blocks == 1 and sampling is None else self._count(window, blocks)
            self._blocks += [(window, block, blocks) for block in range(blocks)]
        self._starts = list(accumulate(sizes, initial=0))
        self._block = lru_cache(maxsize=2)(self._sort_block)

    def take(self, begin: int, end: int) -> np.ndarray:
        """Return the samples at these positions of the order."""
        parts = [np.empty(0, np.int64)]
        number = bisect_right(self._starts, begin) - 1
        while begin < end:
            start, stop = self._starts[number : number + 2]
            if begin < stop:
                parts.append(self._block(number)[begin - start : end - start])
                begin = min(end, stop)
            number += 1
        return np.concatenate(parts)

    def _count(self, window: np.ndarray, blocks: int) -> list[int]:
        """Return the number of samples in each block of a window."""
        counts = np.zeros(blocks, np.int64)
        for _, hashes in self._hash(window):
            counts += np.bincount(_find_blocks(hashes, blocks), minlength=blocks)
        return counts.tolist()

    def _sort_block(self, number: int) -> np.ndarray:
        window, block, blocks = self._blocks[number]
        size, filled = self._starts[number + 1] - self._starts[number], 0
        found, keys = np.empty(size, np.int64), np.empty(size, np.uint64)
        for samples, hashes in self._hash(window):
            mine = slice(None) if blocks == 1 else np.flatnonzero(_find_blocks(hashes, blocks) == block)
            end = filled + len(samples[mine])
            found[filled:end], keys[filled:end] = samples[mine], hashes[mine]
            filled = end
        return found[np.argsort(keys)]

    def _hash(self, window: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the samples of a window that are in the epoch, and the hash of each."""
        for samples in _split(window, self._chunk):
            if self._sampling is not None:
                samples = samples[self._sampling.drawn(self._seed, self._epoch, samples)]
            yield samples, hash_samples("order", self._seed, self._epoch, samples)


def _find_blocks(hashes: np.ndarray, blocks: int) -> np.ndarray:
    """Return the block of each hash: range(2^64) is cut into equal parts."""
    return ((hashes >> np.uint64(32)) * np.uint64(blocks) >> np.uint64(32)).astype(np.int64)


def _split(ranges: np.ndarray, chunk: int = CHUNK_SAMPLES) -> Iterator[np.ndarray]:
    """Yield the samples of ranges (ranges, 2), at most `chunk` at a time: small ranges together."""
    firsts, ends = ranges.T
    stops = np.cumsum(ends - firsts)
    starts = stops - (ends - firsts)
    total = int(stops[-1])
    for begin in range(0, total, chunk):
        end = min(begin + chunk, total)
        yield np.arange(begin, end) + np.repeat(firsts - starts, stops.clip(begin, end) - starts.clip(begin, end))
