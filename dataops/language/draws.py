"""Computes the random numbers of langdetect's sampling: those of Python's generator, seeded again for each text.

Source: langdetect 1.0.9 (Apache-2.0), detector.py; CPython's random.py (choice, gauss) and _randommodule.c (random).
"""

import math
import random
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled

BASE_FREQUENCY = 10_000
ALPHA, ALPHA_WIDTH = 0.5, 0.05
LANES = 4
"""Number of texts that are processed in parallel, so that the processor computes while it waits for one of the sums,
which langdetect adds up number by number."""

# Each draw takes less than two outputs on average; 7 trials take 14,000 at most, give or take a hundred.
_OUTPUTS = 1 << 14
_LISTED = 128
"""Maximum number of n-grams for which draws are listed once for all texts with this number; 64 kB for each."""
_AT_A_TIME = 512
"""Number of outputs that are listed at a time; most texts need no more."""


@lru_cache(maxsize=4)
def list_outputs(seed: int) -> NDArray[np.uint32]:
    """Return the first outputs of Python's Mersenne Twister."""
    generator = random.Random(seed)
    return np.array([generator.getrandbits(32) for _ in range(_OUTPUTS)], np.uint32)


class Draws(NamedTuple):
    """The n-grams that the generator draws among c n-grams: its outputs that are below c, in order.

    The last rows are for numbers of n-grams above _LISTED, one for each lane. R = _LISTED + 1 + LANES.
    """

    chosen: NDArray[np.uint16]  # (R, _OUTPUTS) indices of the drawn n-grams
    places: NDArray[np.uint16]  # (R, _OUTPUTS) indices of these draws among the outputs
    ready: NDArray[np.int64]  # (R,) the c of each row, 0 for an empty one
    totals: NDArray[np.int64]  # (R,) number of draws in each row
    read: NDArray[np.int64]  # (R,) number of outputs that the draws are from


@lru_cache(maxsize=4)
def allocate_draws(seed: int) -> Draws:
    """Allocate the draws. They are filled when texts need them; their values depend on the seed only."""
    size = (_LISTED + 1 + LANES, _OUTPUTS)
    chosen, places = (np.zeros(size, np.uint16) for _ in range(2))
    ready, totals, read = (np.zeros(size[0], np.int64) for _ in range(3))
    return Draws(chosen, places, ready, totals, read)


@compiled()
def _unit(stream, at):
    """Return the result of Python's `random()`: 53 bits of two outputs, in [0, 1)."""
    return ((stream[at] >> np.uint32(5)) * 67108864.0 + (stream[at + 1] >> np.uint32(6))) / 9007199254740992.0


@compiled()
def row_of_draws(count, lane, draws):
    """Return the row of `draws` for a text of a lane with `count` n-grams."""
    row = count if count <= _LISTED else _LISTED + 1 + lane
    if draws.ready[row] != count:
        draws.ready[row], draws.totals[row], draws.read[row] = count, 0, 0
    return row


@compiled()
def list_draws(stream, row, size, at, draws):
    """List draws in a row until it has `size`, and all those up to an output."""
    count, shift = np.uint32(draws.ready[row]), np.uint32(0)
    while (count << shift) < np.uint32(1 << 31):  # Python takes as many top bits as the count has
        shift += np.uint32(1)
    total, read = draws.totals[row], draws.read[row]
    while (total < size or read <= at) and read < len(stream):
        for place in range(read, min(read + _AT_A_TIME, len(stream))):
            value = stream[place] >> shift
            draws.chosen[row, total], draws.places[row, total] = value, place
            total += value < count  # without a branch that the processor would mispredict every other time
        read += _AT_A_TIME
    draws.totals[row], draws.read[row] = total, read


@compiled()
def trial_weight(stream, at, trial, second_normal):
    """Return what a trial adds to each probability, the normal number for the next trial, and the next output."""
    normal = second_normal
    if trial % 2 == 0:  # `gauss` computes two numbers at a time, and keeps the second for its next call
        turn = _unit(stream, at) * (2.0 * math.pi)
        radius = math.sqrt(-2.0 * math.log(1.0 - _unit(stream, at + 2)))
        at += 4
        normal, second_normal = math.cos(turn) * radius, math.sin(turn) * radius
    return (ALPHA + normal * ALPHA_WIDTH) / BASE_FREQUENCY, second_normal, at
