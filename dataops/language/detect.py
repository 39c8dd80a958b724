"""Detects the language of captions with langdetect's profiles, in compiled code.

langdetect multiplies the probabilities of randomly drawn n-grams until one language wins, in seven trials. Three modes:

- `exact` replays these draws and gives langdetect's answers.
- `fast` counts each n-gram (1 to 3 characters) of the text once, which gives the naive Bayes posterior. Where no
  language is sure, it replays the draws among the plausible languages.
- `script` is this posterior among the languages that write a script of the text (dataops.language.scripts). langdetect
  takes a quarter of the Chinese names of emoji for Korean, since its Korean profile has Chinese characters; this mode
  does not. It replays no draws, which would not make it more often right, but too sure.

The result for a text is the same on every machine: the weights of `fast` are integers, so the order of summation does
    not
matter.
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
"""Added to the probability of each n-gram: langdetect's mean alpha divided by its base frequency."""
SCALE = 4096
"""Weights are -log(probability) in units of 1/4096, which fit 16 bits; a sum over MAX_CHARS fits 32."""
SURE = 0.99
"""Posterior from which on `fast` does not replay draws."""
PLAUSIBLE = 1e-8
"""Minimum posterior of a language for which draws are replayed: about a third of 55 languages, in half the time."""
NOTHING = 40
"""A language that is exp(-40) times as likely as the best has probability 0."""
DECIMALS = 4
"""Decimals of the returned probabilities."""
_WORST = np.iinfo(np.int32).max

_LANES = 32
"""Number of weights that are processed together: whole vectors of a processor take a third of the time."""


@lru_cache(maxsize=4)
def _compute_weights(columns: tuple[int, ...]) -> tuple[NDArray[np.uint16], NDArray[np.int64], int]:
    """Compute the weights -log(probability) * SCALE of some languages.

    Returns: the weights (N, W), 0 in unused columns; the column of each language (C,); the number of first columns that
        have all languages of the Latin script, which most texts need only.
    """
    model, (scripts, written) = load_model(), load_scripts()
    latin = written[list(columns)] & scripts[ord("a")] != 0
    narrow = -(-int(latin.sum()) // _LANES) * _LANES
    places = np.where(latin, np.cumsum(latin) - 1, narrow + np.cumsum(~latin) - 1)
    weights = np.zeros((len(model.chances), -(-int(places.max() + 1) // _LANES) * _LANES), np.uint16)
    weights[:, places] = np.rint(-np.log(SMOOTHING) * SCALE)
    for column, place in zip(columns, places, strict=True):  # a language has few of all n-grams
        rows = np.flatnonzero(model.chances[:, column])
        known = model.chances[rows, column]
        weights[rows, place] = np.rint(-np.log(known + SMOOTHING) * SCALE).clip(0, 65_535)
    return weights, places, narrow


@compiled(nogil=True)
def _score(text, starts, letters, upper, slots, rows, scripts, written, only, weights, places, narrow, shares, counts):
    """Write the posterior of each text (n, C), and its number of n-grams that a profile has (n,).

    Both stay 0 where no candidate writes a script of the text. With `only`, candidates that write none have probability
    0.
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
    """Write the sums of rows of the weights (first `width` columns), four rows at a time, in half the time."""
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
    """Index of the most likely candidate (n,); -1 for a text without letters of a profile, or of a candidate's
    script."""
    probabilities: NDArray[np.float64]
    """Probabilities (n, L), by default in units of 10^-DECIMALS; each row sums to 1, or to 0 without a language."""

    @property
    def labels(self) -> list[str | None]:
        """The most likely candidate of each text; None for a text without a language."""
        return [None if index < 0 else self.candidates[index] for index in self.best.tolist()]

    @property
    def scores(self) -> NDArray[np.float64]:
        """The probability of each label (n,)."""
        return self.probabilities.max(axis=1, initial=0.0)

    def sum_probabilities(self, languages: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability that each text is in one of `languages` (n,)."""
        columns = [i for i, name in enumerate(self.candidates) if name in languages]
        return np.round(self.probabilities[:, columns].sum(axis=1), DECIMALS)

    def without(self, rows: NDArray[np.bool_]) -> "Detection":
        """Return the detection with no language for the texts that `rows` (n,) marks."""
        return Detection(
            self.candidates, np.where(rows, -1, self.best), np.where(rows[:, None], 0.0, self.probabilities)
        )

    def blend(self, context: "Detection", rows: NDArray[np.uint32], weight: float) -> "Detection":
        """Return the weighted mean of the probabilities of text i and of its context, row `rows[i]` of `context`.

        Args: weight: weight of the context, 0 to 1. If only one of text and context has a language, it has all the
            weight.
        """
        mean = (1 - weight) * self.probabilities + weight * context.probabilities[rows]
        total = mean.sum(axis=1, keepdims=True)
        known = total[:, 0] > 0
        shares: NDArray[np.float64] = np.zeros(mean.shape)
        shares[known] = np.round(mean[known] / total[known], DECIMALS)
        return Detection(self.candidates, np.where(known, shares.argmax(axis=1), -1), shares)


def detect(
    texts: Sequence[str] | Texts,
    candidates: Sequence[str] | None = None,
    mode: Mode = "fast",
    seed: int = 0,
    *,
    rounded: bool = True,
) -> Detection:
    """Detect the language of each text.

    Args: texts: strings, or the result of encode_texts or encode_captions. candidates: names of the profiles to choose
        from; None is all. Fewer candidates give fewer errors on short texts. mode: `exact` gives langdetect's answer;
        `fast` nearly always gives the same, at twice the speed; `script` is more
            often right, and the fastest. They differ on a text in a script that no candidate writes (Thai among English
            and German): `exact` gives all candidates the same probability, and so the first; the others give no
            language. dataops.language.scripts.find_unwritten finds such texts.
        seed: seed of langdetect's draws.
        rounded: round the probabilities to DECIMALS.

    Raises: ValueError for a name that is not a profile.
    """
    model = load_model()
    names = model.languages if candidates is None else tuple(sorted(set(candidates)))
    if unknown := [name for name in names if name not in model.languages]:
        raise ValueError(f"no language profile {', '.join(map(repr, unknown))}; there are {', '.join(model.languages)}")
    columns = tuple(model.languages.index(name) for name in names)
    encoded = texts if isinstance(texts, Texts) else encode_texts(texts)
    if mode == "exact":
        shares, counts = replay(model, encoded, columns, seed)
    elif mode == "fast":
        shares, counts = _detect_fast(model, encoded, columns, seed)
    else:
        shares, counts = _compute_posterior(model, encoded, columns, only=True)
    best = np.where(counts > 0, shares.argmax(axis=1), -1)
    return Detection(names, best, np.round(shares, DECIMALS, out=shares) if rounded else shares)


def _detect_fast(
    model: Model, texts: Texts, columns: tuple[int, ...], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    shares, counts = _compute_posterior(model, texts, columns, only=False)
    is_unsure = shares.max(axis=1, initial=0.0) < SURE
    replayed, replay_counts = replay(model, texts, columns, seed, (shares > PLAUSIBLE) & is_unsure[:, None])
    shares[replay_counts > 0] = replayed[replay_counts > 0]
    return shares, counts


def _compute_posterior(
    model: Model, texts: Texts, columns: tuple[int, ...], *, only: bool
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the naive Bayes posterior of each text (n, C), and its number of n-grams (n,).

    Args:
        only: whether only the languages that write a script of the text have a probability.
    """
    shares, counts = np.zeros((len(texts), len(columns))), np.zeros(len(texts), np.int32)
    scripts, written = load_scripts()
    _score(
        *(texts.letters, texts.starts, model.letters, model.upper, model.slots, model.rows),
        *(scripts, written[list(columns)], only, *_compute_weights(columns), shares, counts),
    )
    return shares, counts
