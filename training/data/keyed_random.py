"""Random numbers as a pure function of what they are used for: no state to save, none to share between workers."""

import numpy as np

Words = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]


def _mix(x: Words) -> Words:
    """Apply the finaliser of splitmix64, a bijection of 64 bits. Source: Steele, Lea & Flood 2014; Vigna, splitmix64.c."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_samples(stream: str, seed: int, epoch: int, samples: np.ndarray) -> Words:
    """Return 64 bits for each sample, independent for each stream, seed and epoch, and different for each sample."""
    state = np.zeros(1, dtype=np.uint64)
    for word in (int.from_bytes(stream.encode("ascii")[:8].ljust(8)), seed, epoch):
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15) + np.array([word % 2**64], dtype=np.uint64))
    return _mix(_mix(samples.astype(np.uint64) + np.uint64(1)) + state)


def draw_permutation(seed: int, epoch: int, count: int, stream: str = "order", first: int = 0) -> np.ndarray:
    """Draw an order of range(count), the same on every machine and with every release of numpy.

    Args:
        first: number of the first item; items of other numbers have another order.
    """
    return np.argsort(hash_samples(stream, seed, epoch, np.arange(first, first + count)), kind="stable")


def draw_uniforms(stream: str, seed: int, epoch: int, samples: np.ndarray, draws: int) -> np.ndarray:
    """Draw numbers in [0, 1), float64 (samples, draws); no row depends on another."""
    base = hash_samples(stream, seed, epoch, samples)[:, None]
    bits = _mix(base + np.arange(1, draws + 1, dtype=np.uint64)[None] * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
