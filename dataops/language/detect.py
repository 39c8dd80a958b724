"""The language of captions: langdetect's algorithm over its own shipped profiles, compiled.

langdetect multiplies the probabilities of n-grams that it draws at random until one language has won, seven times over.
Three modes:

- `exact` replays its draws and gives its very answers.
- `fast` counts every n-gram (1 to 3 characters) of the text once, which is the naive Bayes posterior. Where that is not
  sure, it replays the draws too, among the languages that are still plausible.
- `script` is that posterior among the languages that write one of the text's scripts (dataops.language.scripts): no Chinese
  caption is Korean then, as every fourth name of an emoji is to langdetect, whose Korean profile has Chinese characters
  too. It replays no draws: they make it neither more nor less often right, but surer than it has reason to be.

All give the same for the same text on every machine: weights of `fast` are whole numbers, so their sums do not depend on
any order of summation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.language.ngrams import MAX_CHARS, Model, Texts, encode_texts, find_ngrams, load_model
from dataops.language.replay import replay
from dataops.language.scripts import find_scripts, load_scripts

Mode = Literal["script", "fast", "exact"]

SMOOTHING = 0.5 / 10_000
"""Added to each n-gram's probability: langdetect's mean alpha over its base frequency."""
SCALE = 4096
"""Weights are -log(probability) in units of 1/4096, and so fit 16 bits; a sum over MAX_CHARS fits 32."""
SURE = 0.99
"""Posterior from which on `fast` does not replay draws."""
PLAUSIBLE = 1e-8
"""Posterior from which on a language takes part where draws are replayed: a third of 55, in half the time."""
NOTHING = 40
"""A language that is exp(-40) times as likely as the best has no probability."""
DECIMALS = 4
"""Of the probabilities given out."""
_WORST = np.iinfo(np.int32).max


_LANES = 32
"""Weights that are worked on together: whole vectors of a processor take a third of the time."""


@lru_cache(maxsize=4)
def _weights(columns: tuple[int, ...]) -> tuple[NDArray[np.uint16], NDArray[np.int64], int]:
    """(N, W) -log(probability) * SCALE of some languages, in the order of their places (C,), 0 in the other columns; and
    how many columns hold all that write the Latin script: they come first, and are all that most texts need.
    """
    model, (scripts, written) = load_model(), load_scripts()
    latin = written[list(columns)] & scripts[ord("a")] != 0
    narrow = -(-int(latin.sum()) // _LANES) * _LANES
    places = np.where(latin, np.cumsum(latin) - 1, narrow + np.cumsum(~latin) - 1)
    weights = np.zeros((len(model.chances), -(-int(places.max() + 1) // _LANES) * _LANES), np.uint16)
    weights[:, places] = np.rint(-np.log(SMOOTHING) * SCALE)
    for column, place in zip(columns, places, strict=True):  # of a language, most n-grams are not known
        rows = np.flatnonzero(model.chances[:, column])
        known = model.chances[rows, column]
        weights[rows, place] = np.rint(-np.log(known + SMOOTHING) * SCALE).clip(0, 65_535)
    return weights, places, narrow


@compiled(nogil=True)
def _score(text, starts, letters, upper, slots, rows, scripts, written, only, weights, places, narrow, shares, counts):
    """For each text its posterior (n, C), and how many n-grams it has that any language has (n,).

    Both stay 0 where no candidate writes a script of the text. With `only`, those that write none have no probability.
    """
    buffer, found = np.empty(MAX_CHARS, np.uint32), np.empty(3 * MAX_CHARS + 1, np.int32)
    sums, costs = np.empty(weights.shape[1], np.int32), np.empty(len(written), np.int32)
    for t in range(len(starts) - 1):
        one = text[starts[t] : starts[t + 1]]
        own, best, writers = find_scripts(one, scripts), _WORST, False
        count = find_ngrams(one, letters, upper, slots, rows, buffer, found)
        width = narrow if only and own == scripts[ord("a")] else len(sums)
        _sum_up(found[:count], weights, width, sums)
        for language in range(len(written)):
            writes = own == 0 or own & written[language] != 0
            writers |= writes
            costs[language] = sums[places[language]] if writes or not only else _WORST
            best = min(best, costs[language])
        if count and writers:
            counts[t] = count
            _softmax(costs, best, shares[t])


@compiled()
def _sum_up(found, weights, width, sums):
    """The sums of some rows of the weights (their first `width` columns): four at a time, in half the time."""
    sums[:] = 0
    whole = len(found) - len(found) % 4
    for i in range(0, whole, 4):
        a, b, c, d = weights[found[i]], weights[found[i + 1]], weights[found[i + 2]], weights[found[i + 3]]
        for column in range(width):
            sums[column] += (np.int32(a[column]) + np.int32(b[column])) + (np.int32(c[column]) + np.int32(d[column]))
    for i in range(whole, len(found)):
        row = weights[found[i]]
        for column in range(width):
            sums[column] += row[column]


@compiled()
def _softmax(costs, best, shares):
    total = 0.0
    for i in range(len(costs)):
        excess = np.int64(costs[i]) - best
        if excess < NOTHING * SCALE:
            shares[i] = math.exp(-excess / SCALE)
            total += shares[i]
    for i in range(len(costs)):
        shares[i] /= total


@dataclass(frozen=True)
class Detection:
    """The languages of n texts among L candidates."""

    candidates: tuple[str, ...]
    best: NDArray[np.int64]
    """(n,) the place of the likeliest; -1 for a text with no letters that any profile knows, or that a candidate writes."""
    probabilities: NDArray[np.float64]
    """(n, L), each row sums to 1, or to 0 where there is none; in units of 10^-DECIMALS."""

    @property
    def labels(self) -> list[str | None]:
        """The likeliest; None where there is none."""
        return [None if place < 0 else self.candidates[place] for place in self.best.tolist()]

    @property
    def scores(self) -> NDArray[np.float64]:
        """(n,) the probability of each label."""
        return self.probabilities.max(axis=1, initial=0.0)

    def sum_probabilities(self, languages: Sequence[str]) -> NDArray[np.float64]:
        """(n,) the probability that a text is in one of `languages`."""
        columns = [i for i, name in enumerate(self.candidates) if name in languages]
        return np.round(self.probabilities[:, columns].sum(axis=1), DECIMALS)

    def without(self, rows: NDArray[np.bool_]) -> "Detection":
        """The same with no language for the texts that `rows` (n,) marks."""
        return Detection(
            self.candidates, np.where(rows, -1, self.best), np.where(rows[:, None], 0.0, self.probabilities)
        )

    def blend(self, context: "Detection", rows: NDArray[np.uint32], weight: float) -> "Detection":
        """Each text's probabilities mixed with those of the context that it stands in (`context` row `rows[i]`).

        Args:
            weight: share of the context, 0-1. A text without n-grams takes all from its context, and the other way round.
        """
        mixed = (1 - weight) * self.probabilities + weight * context.probabilities[rows]
        total = mixed.sum(axis=1, keepdims=True)
        known = total[:, 0] > 0
        shares: NDArray[np.float64] = np.zeros(mixed.shape)
        shares[known] = np.round(mixed[known] / total[known], DECIMALS)
        return Detection(self.candidates, np.where(known, shares.argmax(axis=1), -1), shares)


def detect(
    texts: Sequence[str] | Texts, candidates: Sequence[str] | None = None, mode: Mode = "fast", seed: int = 0
) -> Detection:
    """Detect the language of each text.

    Args:
        texts: as they are, or what language_ngrams.encoded or language_ngrams.shown made of them.
        candidates: names of profiles to tell apart; None is all. Fewer make short texts safer.
        mode: `exact` is langdetect's answer, `fast` nearly always is, at twice the speed, `script` is more often right, and
            the fastest.
            They differ on a text in a script that no candidate writes (Thai among English and German): `exact` has
            langdetect's answer, all candidates alike and so the first; the others have none.
            dataops.language.scripts.unwritten tells such texts.
        seed: langdetect's, of the draws.

    Raises: ValueError for a name that is no profile.
    """
    model = load_model()
    names = model.languages if candidates is None else tuple(sorted(set(candidates)))
    if unknown := [name for name in names if name not in model.languages]:
        raise ValueError(f"no language profile {', '.join(map(repr, unknown))}; there are {', '.join(model.languages)}")
    columns = tuple(model.languages.index(name) for name in names)
    ready = texts if isinstance(texts, Texts) else encode_texts(texts)
    if mode == "exact":
        shares, counts = replay(model, ready, columns, seed)
    elif mode == "fast":
        shares, counts = _cascade(model, ready, columns, seed)
    else:
        shares, counts = _posterior(model, ready, columns, only=True)
    best = np.where(counts > 0, shares.argmax(axis=1), -1)
    return Detection(names, best, np.round(shares, DECIMALS, out=shares))


def _cascade(
    model: Model, texts: Texts, columns: tuple[int, ...], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    shares, counts = _posterior(model, texts, columns, only=False)
    unsure = shares.max(axis=1, initial=0.0) < SURE
    drawn, asked = replay(model, texts, columns, seed, (shares > PLAUSIBLE) & unsure[:, None])
    shares[asked > 0] = drawn[asked > 0]
    return shares, counts


def _posterior(
    model: Model, texts: Texts, columns: tuple[int, ...], *, only: bool
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """The naive Bayes posterior of each text (n, C), and its number of n-grams (n,).

    Args:
        only: of the languages that write one of the text's scripts.
    """
    shares, counts = np.zeros((len(texts), len(columns))), np.zeros(len(texts), np.int32)
    scripts, written = load_scripts()
    _score(
        *(texts.letters, texts.starts, model.letters, model.upper, model.slots, model.rows),
        *(scripts, written[list(columns)], only, *_weights(columns), shares, counts),
    )
    return shares, counts
