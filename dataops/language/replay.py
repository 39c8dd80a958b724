"""Replays langdetect's sampling in compiled code: the mode `exact` of dataops.language.detect.

langdetect multiplies the probabilities of randomly drawn n-grams until one language wins, in seven trials. With a seed,
the generator has the same state for each text, so one stream of outputs serves all texts.

Source: langdetect 1.0.9 (Apache-2.0), detector.py; CPython's random.py (choice, gauss) and _randommodule.c (random).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled, multiply_add
from dataops.language.draws import LANES, allocate_draws, list_draws, list_outputs, row_of_draws, trial_weight
from dataops.language.ngrams import MAX_CHARS, Model, Texts, find_ngrams

TRIALS = 7
LIMIT = 1000
"""Maximum draws of a trial."""
CONVERGED = 0.99999
CHECKED = 5
"""Number of draws after which langdetect checks whether one language has won."""
NOTHING = 1e-250
"""Smaller probabilities become 0: no draw makes them large again, and subnormal numbers are a hundred times slower."""
_UNIT = 1024.0
"""A power of two that keeps the magnitude of probabilities when five draws are multiplied with them."""
_SMALL, _GREAT = 1e-100, 1e100


@lru_cache(maxsize=4)
def _select_columns(model: Model, columns: tuple[int, ...]) -> NDArray[np.float64]:
    """Return some columns of the model's chances (N, C rounded up); empty columns fill the vectors of a processor."""
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
    """Return langdetect's mean probabilities of each text for a seed (n, C), and its number of n-grams (n,).

    Args: columns: candidates among the model's languages (C); the others have prior probability 0. plausible: (n, C)
        candidates to compute; the others get 0. A text without any is skipped, with 0 n-grams. Sums are
            then rounded differently, so only without this argument the result equals langdetect's to the last bit
            (except for probabilities near NOTHING).
    """
    probabilities, counts = np.zeros((len(texts), len(columns))), np.zeros(len(texts), np.int32)
    known = (
        texts.letters,
        texts.starts,
        model.letters,
        model.upper,
        model.slots,
        model.rows,
        _select_columns(model, columns),
    )
    if plausible is None:
        _replay(*known, list_outputs(seed), allocate_draws(seed), probabilities, counts)
    else:
        _replay_plausible(*known, plausible, list_outputs(seed), allocate_draws(seed), probabilities, counts)
    return probabilities, counts


@compiled()  # holds Python's lock, since threads share the draws
def _replay(text, starts, letters, upper, slots, rows, chances, stream, draws, probabilities, counts):
    """Run all trials of all texts, with langdetect's rounding; each turn advances each lane's text by one check."""
    buffer, found = np.empty(MAX_CHARS, np.uint32), np.zeros((LANES, 3 * MAX_CHARS + 1), np.int32)
    shares, sums, begin = np.ones((LANES, chances.shape[1])), np.empty(LANES), np.zeros(chances.shape[1])
    begin[: probabilities.shape[1]] = 1.0 / probabilities.shape[1]
    # For each lane: its text (-1 for none), the row of its draws; the trial, the draws in it, the next draw and output.
    texts, lists = np.full(LANES, -1, np.int64), np.zeros(LANES, np.int64)
    trials, drawn, draw, at = (
        np.zeros(LANES, np.int64),
        np.zeros(LANES, np.int64),
        np.zeros(LANES, np.int64),
        np.zeros(LANES, np.int64),
    )
    weights, normals = np.zeros(LANES), np.zeros(LANES)
    coming, busy = 0, True
    while busy:
        busy = False
        for lane in range(LANES):
            while texts[lane] < 0 and coming < len(counts):
                one = text[starts[coming] : starts[coming + 1]]
                counts[coming] = find_ngrams(one, letters, upper, slots, rows, buffer, found[lane])
                if counts[coming]:
                    texts[lane], trials[lane], drawn[lane], at[lane] = coming, 0, 0, 0
                    lists[lane] = row_of_draws(counts[coming], lane, draws)
                coming += 1
            if texts[lane] < 0:
                continue
            busy = True
            row, size = lists[lane], CHECKED
            if drawn[lane] == 0:
                size = 1
                weights[lane], normals[lane], at[lane] = trial_weight(stream, at[lane], trials[lane], normals[lane])
                if draws.read[row] <= at[lane]:
                    list_draws(stream, row, 0, at[lane], draws)
                draw[lane] = np.searchsorted(draws.places[row, : draws.totals[row]], at[lane])
            if draws.totals[row] < draw[lane] + size:
                list_draws(stream, row, draw[lane] + size, 0, draws)
            if drawn[lane] == 0:
                gram, weight = found[lane, draws.chosen[row, draw[lane]]], weights[lane]
                for i in range(len(begin)):
                    shares[lane, i] = begin[i] * (weight + chances[gram, i])
            else:
                _multiply(found, chances, weights[lane], draws.chosen, row, draw[lane], shares, lane)
            draw[lane] += size
            drawn[lane] += size
        _add_up(shares, probabilities.shape[1], sums)
        for lane in range(LANES):
            if texts[lane] < 0 or not (_normalise(shares, lane, sums[lane]) or drawn[lane] > LIMIT):
                continue
            for i in range(probabilities.shape[1]):
                probabilities[texts[lane], i] += shares[lane, i] / TRIALS
            at[lane] = np.int64(draws.places[lists[lane], draw[lane] - 1]) + 1
            trials[lane] += 1
            drawn[lane] = 0
            if trials[lane] == TRIALS:
                texts[lane] = -1


@compiled()
def _replay_plausible(text, starts, letters, upper, slots, rows, chances, chosen, stream, draws, probabilities, counts):
    """Run all trials of all texts among their plausible candidates; sums are rounded differently."""
    buffer, found = np.empty(MAX_CHARS, np.uint32), np.empty(3 * MAX_CHARS + 1, np.int32)
    for t in range(len(starts) - 1):
        languages = np.flatnonzero(chosen[t])
        if len(languages) == 0:
            continue
        count = find_ngrams(text[starts[t] : starts[t + 1]], letters, upper, slots, rows, buffer, found)
        counts[t] = count
        if count == 0:
            continue
        row = row_of_draws(count, 0, draws)
        mean = _run_trials(_gather(chances, found[:count], languages), len(languages), stream, row, draws)
        for i in range(len(languages)):
            probabilities[t, languages[i]] = mean[i]


@compiled()
def _gather(chances, found, languages):
    """Return the rows `found` of the columns `languages`, times _UNIT, and empty columns up to whole vectors."""
    gathered = np.zeros((len(found), (len(languages) + 7) // 8 * 8))
    for i in range(len(found)):
        for j in range(len(languages)):
            gathered[i, j] = chances[found[i], languages[j]] * _UNIT
    return gathered


@compiled()
def _run_trials(gathered, languages, stream, row, draws):
    """Return the mean probabilities over all trials (C,), from the result of _gather."""
    one_trial, mean = np.zeros(gathered.shape[1]), np.zeros(languages)
    at, second_normal = 0, 0.0
    for trial in range(TRIALS):
        weight, second_normal, at = trial_weight(stream, at, trial, second_normal)
        if draws.read[row] <= at:
            list_draws(stream, row, 0, at, draws)
        first = np.searchsorted(draws.places[row, : draws.totals[row]], at)
        last = _run_trial(gathered, weight * _UNIT, stream, row, first, draws, languages, one_trial)
        at = np.int64(draws.places[row, last - 1]) + 1
        for language in range(languages):
            mean[language] += one_trial[language] / TRIALS
    return mean


@compiled()
def _run_trial(gathered, weight, stream, row, at, draws, languages, probabilities):
    """Write the probabilities of one trial from a draw on, and return the draw after its last one."""
    list_draws(stream, row, at + 1, 0, draws)
    first = gathered[draws.chosen[row, at]]
    for language in range(languages):
        probabilities[language] = weight + first[language]
    won, end = _has_winner(probabilities), at + LIMIT
    at += 1
    while not won and at <= end:  # langdetect checks its sums after the first draw, then after each fifth
        if draws.totals[row] < at + CHECKED:
            list_draws(stream, row, at + CHECKED, 0, draws)
        drawn = draws.chosen[row, at : at + CHECKED]
        first, second, third, fourth, fifth = (
            gathered[drawn[0]],
            gathered[drawn[1]],
            gathered[drawn[2]],
            gathered[drawn[3]],
            gathered[drawn[4]],
        )
        for language in range(len(probabilities)):
            product = probabilities[language] * (weight + first[language])
            product *= weight + second[language]
            product *= weight + third[language]
            product *= weight + fourth[language]
            probabilities[language] = product * (weight + fifth[language])
        won = _has_winner(probabilities)
        at += CHECKED
    probabilities /= probabilities.sum()
    return at


@compiled(inline="always")
def _multiply(found, chances, weight, draws, row, at, shares, lane):
    """Multiply the probabilities of a lane by those of five draws."""
    first, second, third = found[lane, draws[row, at]], found[lane, draws[row, at + 1]], found[lane, draws[row, at + 2]]
    fourth, fifth = found[lane, draws[row, at + 3]], found[lane, draws[row, at + 4]]
    for i in range(shares.shape[1]):
        product = shares[lane, i] * (weight + chances[first, i])
        product *= weight + chances[second, i]
        product *= weight + chances[third, i]
        product *= weight + chances[fourth, i]
        shares[lane, i] = product * (weight + chances[fifth, i])


@compiled()
def _add_up(shares, languages, sums):
    """Write the sum of each lane's probabilities, added number by number."""
    a = b = c = d = 0.0
    for i in range(languages):
        a += shares[0, i]
        b += shares[1, i]
        c += shares[2, i]
        d += shares[3, i]
    sums[0], sums[1], sums[2], sums[3] = a, b, c, d


@compiled(inline="always")
def _normalise(shares, lane, total):
    """Normalise the probabilities of a lane, and return whether a language has won.

    The result is rounded like a division, in a third of the time (Markstein 1990, "Computation of elementary functions
    on the IBM RISC System/6000 processor"), as long as no remainder is too small for a floating-point number.
    """
    won, inverse = False, 1.0 / total
    for i in range(shares.shape[1]):
        quotient = shares[lane, i] * inverse
        remainder = multiply_add(-quotient, total, shares[lane, i])
        quotient = multiply_add(remainder, inverse, quotient)
        won |= quotient > CONVERGED
        shares[lane, i] = quotient if quotient > NOTHING else 0.0
    return won


@compiled(inline="always")
def _has_winner(probabilities):
    """Return whether a language has won, in a third of the time.

    Eight sums are computed in parallel, since a processor waits for each addition of one long sum. Probabilities are
    divided only if they become too small or too large.
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
