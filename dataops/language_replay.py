"""langdetect's own sampling, replayed in compiled code: the mode `exact` of dataops.language.

langdetect multiplies the probabilities of n-grams that it draws at random until one language has won, in seven trials. With
a seed each text is judged from the same state of the generator, so one stream of its outputs serves all texts.

Source: langdetect 1.0.9 (Apache-2.0), detector.py; CPython's random.py (choice, gauss) and _randommodule.c (random).
"""

import math
import random
from functools import lru_cache

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

# Each draw takes less than two outputs in the mean; 7 trials take 14,000 at most, give or take a hundred.
_OUTPUTS = 1 << 16


@lru_cache(maxsize=4)
def _stream(seed: int) -> NDArray[np.uint32]:
    """The first outputs of Python's Mersenne Twister."""
    generator = random.Random(seed)
    return np.array([generator.getrandbits(32) for _ in range(_OUTPUTS)], np.uint32)


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
            0 n-grams. What this leaves out changes the last bits of sums, so only without it the answers are langdetect's.
    """
    probabilities, counts = np.zeros((len(texts), len(columns))), np.zeros(len(texts), np.int32)
    chosen = np.ones(probabilities.shape, np.bool_) if plausible is None else plausible
    _replay(
        *(texts.letters, texts.starts, model.letters, model.upper, model.slots, model.rows),
        *(_columns(model, columns), chosen, _stream(seed), probabilities, counts),
    )
    return probabilities, counts


@compiled()
def _unit(stream, at):
    """Python's `random()`: 53 bits of two outputs, in [0, 1)."""
    return ((stream[at] >> np.uint32(5)) * 67108864.0 + (stream[at + 1] >> np.uint32(6))) / 9007199254740992.0


@compiled(nogil=True)
def _replay(text, starts, letters, upper, slots, rows, chances, chosen, stream, probabilities, counts):
    buffer, found = np.empty(MAX_CHARS, np.uint32), np.empty(3 * MAX_CHARS + 1, np.int32)
    for t in range(len(starts) - 1):
        languages = np.flatnonzero(chosen[t])
        if len(languages) == 0:
            continue
        count = ngrams(text[starts[t] : starts[t + 1]], letters, upper, slots, rows, buffer, found)
        counts[t] = count
        if count == 0:
            continue
        if len(languages) == chosen.shape[1]:
            mean = _trials(found[:count], chances, len(languages), stream)
        else:
            gathered = _gathered(chances, found[:count], languages)
            mean = _trials(np.arange(count, dtype=np.int32), gathered, len(languages), stream)
        for i in range(len(languages)):
            probabilities[t, languages[i]] = mean[i]


@compiled()
def _gathered(chances, found, languages):
    """The rows `found` of the columns `languages`, and empty columns up to a whole number of vectors."""
    gathered = np.zeros((len(found), (len(languages) + 7) // 8 * 8))
    for i in range(len(found)):
        for j in range(len(languages)):
            gathered[i, j] = chances[found[i], languages[j]]
    return gathered


@compiled()
def _trials(found, chances, languages, stream):
    """The mean of all trials' probabilities (C,). `found`: the rows of `chances` (N, C or more) of the text's n-grams."""
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
        weight = (ALPHA + normal * ALPHA_WIDTH) / BASE_FREQUENCY
        at = _trial(found, chances, weight, stream, at, languages, one_trial)
        for language in range(languages):
            mean[language] += one_trial[language] / TRIALS
    return mean


@compiled(inline="always")
def _multiply(probabilities, weight, chances, found, drawn):
    first, second, third = chances[found[drawn[0]]], chances[found[drawn[1]]], chances[found[drawn[2]]]
    fourth, fifth = chances[found[drawn[3]]], chances[found[drawn[4]]]
    for language in range(len(probabilities)):
        product = probabilities[language] * (weight + first[language])
        product *= weight + second[language]
        product *= weight + third[language]
        product *= weight + fourth[language]
        probabilities[language] = product * (weight + fifth[language])


@compiled()
def _trial(found, chances, weight, stream, at, languages, probabilities):
    """One trial's probabilities, and the place in the stream after it."""
    count = np.uint32(len(found))
    shift = np.uint32(0)  # `choice` takes as many top bits as the count has
    while (count << shift) < np.uint32(1 << 31):
        shift += np.uint32(1)
    probabilities[:languages] = 1.0 / languages
    drawn, wanted = np.zeros(CHECKED + 1, np.uint32), 1
    for _ in range(0, LIMIT + 1, CHECKED):  # langdetect looks at its sums after the first draw, then after each fifth
        got = 0
        while got < wanted:  # without a branch that the processor would guess wrong every other time
            drawn[got] = stream[at] >> shift
            got += drawn[got] < count
            at += 1
        if wanted == 1:
            row = chances[found[drawn[0]]]
            for language in range(len(probabilities)):
                probabilities[language] *= weight + row[language]
        else:
            _multiply(probabilities, weight, chances, found, drawn)
        wanted = CHECKED
        total = 0.0
        for language in range(languages):
            total += probabilities[language]
        won = False
        for language in range(len(probabilities)):
            probabilities[language] /= total
            won |= probabilities[language] > CONVERGED
        if won:
            break
    return at
