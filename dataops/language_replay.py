"""langdetect's own sampling, replayed in compiled code: the mode `exact` of dataops.language.

langdetect multiplies the probabilities of n-grams that it draws at random until one language has won, in seven trials. With
a seed each text is judged from the same state of the generator, so one stream of its outputs serves all texts.

Source: langdetect 1.0.9 (Apache-2.0), detector.py; CPython's random.py (choice, gauss) and _randommodule.c (random).
"""

import math
import random
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataops.compiled import compiled
from dataops.language_ngrams import MAX_CHARS, Model, Texts, ngrams

TRIALS = 7
LIMIT = 1000
"""Draws of a trial, at most."""
CONVERGED = 0.99999
CHECKED = 5
"""Draws after which langdetect looks whether one language has won."""
BASE_FREQUENCY = 10_000
ALPHA, ALPHA_WIDTH = 0.5, 0.05
_UNIT = 1024.0
"""A power of two that leaves probabilities about as great as they are when five draws are multiplied with them."""
_SMALL, _GREAT = 1e-100, 1e100

# Each draw takes less than two outputs in the mean; 7 trials take 14,000 at most, give or take a hundred.
_OUTPUTS = 1 << 14
_LISTED = 128
"""Numbers of n-grams up to which draws are listed once for all texts that have so many: 64 kB for each number."""


@lru_cache(maxsize=4)
def _stream(seed: int) -> NDArray[np.uint32]:
    """The first outputs of Python's Mersenne Twister."""
    generator = random.Random(seed)
    return np.array([generator.getrandbits(32) for _ in range(_OUTPUTS)], np.uint32)


class _Draws(NamedTuple):
    """Among c n-grams, what the generator chooses if nothing else asks it: the outputs that are below c, in order.

    The last row has place for a number that is not listed.
    """

    chosen: NDArray[np.uint16]  # (_LISTED + 2, _OUTPUTS) by c
    places: NDArray[np.uint16]  # (_LISTED + 2, _OUTPUTS) that they have in the stream
    ready: NDArray[np.int64]  # (_LISTED + 2,) the c whose draws a row holds, 0 for none
    totals: NDArray[np.int64]  # (_LISTED + 2,) draws in a row


@lru_cache(maxsize=4)
def _draws(seed: int) -> _Draws:
    """Room for them. It is filled as texts come; what is in it depends on the seed alone."""
    size = (_LISTED + 2, _OUTPUTS)
    ready, totals = (np.zeros(_LISTED + 2, np.int64) for _ in range(2))
    return _Draws(np.zeros(size, np.uint16), np.zeros(size, np.uint16), ready, totals)


@lru_cache(maxsize=4)
def _columns(model: Model, columns: tuple[int, ...]) -> NDArray[np.float64]:
    """(N, C rounded up): the columns beyond C are empty, so that whole vectors of a processor are worked on."""
    chances = np.zeros((len(model.chances), -(-len(columns) // 16) * 16))
    chances[:, : len(columns)] = model.chances[:, list(columns)]
    return chances


def replay(
    model: Model,
    texts: Texts,
    columns: tuple[int, ...],
    seed: int,
    plausible: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """What langdetect, seeded with `seed`, says of each text: mean probabilities (n, C), and its number of n-grams (n,).

    Args:
        columns: the candidates among the model's languages (C); the others have prior probability 0.
        plausible: (n, C) the candidates that are worth computing; the others get 0. A text without any is passed over, with
            0 n-grams. Sums are rounded otherwise then, so only without it the answers are langdetect's to the last bit.
    """
    probabilities, counts = np.zeros((len(texts), len(columns))), np.zeros(len(texts), np.int32)
    chosen = np.ones(probabilities.shape, np.bool_) if plausible is None else plausible
    _replay(
        *(texts.letters, texts.starts, model.letters, model.upper, model.slots, model.rows),
        *(_columns(model, columns), chosen, _stream(seed), *_draws(seed), probabilities, counts),
    )
    return probabilities, counts


@compiled()
def _unit(stream, at):
    """Python's `random()`: 53 bits of two outputs, in [0, 1)."""
    return ((stream[at] >> np.uint32(5)) * 67108864.0 + (stream[at + 1] >> np.uint32(6))) / 9007199254740992.0


@compiled(nogil=True)
def _replay(
    text,
    starts,
    letters,
    upper,
    slots,
    rows,
    chances,
    chosen,
    stream,
    draws,
    places,
    ready,
    totals,
    probabilities,
    counts,
):
    buffer, found = np.empty(MAX_CHARS, np.uint32), np.empty(3 * MAX_CHARS + 1, np.int32)
    for t in range(len(starts) - 1):
        languages = np.flatnonzero(chosen[t])
        if len(languages) == 0:
            continue
        count = ngrams(text[starts[t] : starts[t + 1]], letters, upper, slots, rows, buffer, found)
        counts[t] = count
        if count == 0:
            continue
        row = min(count, _LISTED + 1)
        if ready[row] != count:
            totals[row] = _list_draws(stream, np.uint32(count), draws[row], places[row])
            ready[row] = count
        drawn, where = draws[row, : totals[row]], places[row, : totals[row]]
        if len(languages) == chosen.shape[1]:
            mean = _trials(found[:count], chances, len(languages), stream, drawn, where, True)
        else:
            gathered = _gathered(chances, found[:count], languages)
            mean = _trials(np.arange(count, dtype=np.int32), gathered, len(languages), stream, drawn, where, False)
        for i in range(len(languages)):
            probabilities[t, languages[i]] = mean[i]


@compiled()
def _list_draws(stream, count, draws, places):
    """List what `choice` among `count` gives, output by output, and where. How many there are."""
    shift = np.uint32(0)  # it takes as many top bits as the count has
    while (count << shift) < np.uint32(1 << 31):
        shift += np.uint32(1)
    size = 0
    for at in range(len(stream)):
        value = stream[at] >> shift
        draws[size], places[size] = value, at
        size += value < count  # without a branch that the processor would guess wrong every other time
    return size


@compiled()
def _gathered(chances, found, languages):
    """The rows `found` of the columns `languages` in units of 1 / _UNIT, and empty columns up to whole vectors."""
    gathered = np.zeros((len(found), (len(languages) + 7) // 8 * 8))
    for i in range(len(found)):
        for j in range(len(languages)):
            gathered[i, j] = chances[found[i], languages[j]] * _UNIT
    return gathered


@compiled()
def _trials(found, chances, languages, stream, draws, places, exactly):
    """The mean of all trials' probabilities (C,).

    Args:
        found: the rows of `chances` (N, C or more) of the text's n-grams.
        exactly: round as langdetect does.
    """
    one_trial, mean = np.zeros(chances.shape[1]), np.zeros(languages)
    at, second_normal = 0, 0.0
    for trial in range(TRIALS):
        if trial % 2 == 0:  # `gauss` makes two numbers at a time, and keeps the second for its next call
            turn = _unit(stream, at) * (2.0 * math.pi)
            radius = math.sqrt(-2.0 * math.log(1.0 - _unit(stream, at + 2)))
            at += 4
            normal, second_normal = math.cos(turn) * radius, math.sin(turn) * radius
        else:
            normal = second_normal
        weight = (ALPHA + normal * ALPHA_WIDTH) / BASE_FREQUENCY * (1.0 if exactly else _UNIT)
        first = np.searchsorted(places, at)
        last = first + _trial(found, chances, weight, draws[first:], languages, one_trial, exactly)
        at = np.int64(places[last - 1]) + 1
        for language in range(languages):
            mean[language] += one_trial[language] / TRIALS
    return mean


@compiled()
def _trial(found, chances, weight, draws, languages, probabilities, exactly):
    """One trial's probabilities, and how many draws it takes."""
    probabilities[:languages] = 1.0 / languages
    row = chances[found[draws[0]]]
    for language in range(len(probabilities)):
        probabilities[language] *= weight + row[language]
    won = _normalise(probabilities, languages)
    at = 1
    while not won and at <= LIMIT:  # langdetect looks at its sums after the first draw, then after each fifth
        first, second, third = chances[found[draws[at]]], chances[found[draws[at + 1]]], chances[found[draws[at + 2]]]
        fourth, fifth = chances[found[draws[at + 3]]], chances[found[draws[at + 4]]]
        for language in range(len(probabilities)):
            product = probabilities[language] * (weight + first[language])
            product *= weight + second[language]
            product *= weight + third[language]
            product *= weight + fourth[language]
            probabilities[language] = product * (weight + fifth[language])
        won = _normalise(probabilities, languages) if exactly else _has_won(probabilities)
        at += CHECKED
    if not exactly:
        _normalise(probabilities, languages)
    return at


@compiled(inline="always")
def _normalise(probabilities, languages):
    """Let the probabilities add up to 1, as langdetect rounds them. Whether one has won."""
    total, won = 0.0, False
    for language in range(languages):
        total += probabilities[language]
    for language in range(len(probabilities)):
        probabilities[language] /= total
        won |= probabilities[language] > CONVERGED
    return won


@compiled(inline="always")
def _has_won(probabilities):
    """Whether one has won, in a third of the time: with eight sums side by side, for a processor waits for each addition
    of one long sum, and a division only where the numbers become too small or too great.
    """
    a = b = c = d = e = f = g = h = 0.0
    for i in range(0, len(probabilities), 8):
        a += probabilities[i]
        b += probabilities[i + 1]
        c += probabilities[i + 2]
        d += probabilities[i + 3]
        e += probabilities[i + 4]
        f += probabilities[i + 5]
        g += probabilities[i + 6]
        h += probabilities[i + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    least, won = CONVERGED * total, False
    for language in range(len(probabilities)):
        won |= probabilities[language] > least
    if not _SMALL < total < _GREAT:
        for language in range(len(probabilities)):
            probabilities[language] /= total
    return won
