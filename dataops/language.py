"""The language of captions: langdetect's algorithm over its own shipped profiles, compiled.

langdetect multiplies the probabilities of n-grams that it draws at random until one language has won, seven times over. The
mode `exact` replays its draws and gives its very answers. The mode `fast` counts every n-gram (1 to 3 characters) of the
text once, which is the naive Bayes posterior, and asks `exact` where that is not sure. Both give the same for the same text
on every machine: weights of `fast` are whole numbers, so their sums do not depend on any order of summation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dataops.compiled import compiled
from dataops.language_ngrams import MAX_CHARS, Model, Texts, encoded, load_model, ngrams
from dataops.language_replay import replay

Mode = Literal["fast", "exact"]

SMOOTHING = 0.5 / 10_000
"""Added to each n-gram's probability: langdetect's mean alpha over its base frequency."""
SCALE = 4096
"""Weights are -log(probability) in units of 1/4096, and so fit 16 bits; a sum over MAX_CHARS fits 32."""
SURE = 0.9
"""Posterior from which on `fast` does not ask `exact`. Of 57,000 names of emoji in all languages 18% were less sure; 99.8%
of the labels were those of `exact`."""
DECIMALS = 4
"""Of the probabilities given out."""


@lru_cache(maxsize=1)
def _weights() -> NDArray[np.uint16]:
    """(N, L) -log(probability) * SCALE."""
    return np.rint(-np.log(load_model().chances + SMOOTHING) * SCALE).clip(0, 65_535).astype(np.uint16)


@compiled(nogil=True)
def _score(text, starts, letters, upper, slots, rows, weights, sums, counts):
    """For each text the sum of its n-grams' weights (n, L), and how many n-grams it has that any language has (n,)."""
    buffer, found = np.empty(MAX_CHARS, np.uint32), np.empty(3 * MAX_CHARS + 1, np.int32)
    for t in range(len(starts) - 1):
        counts[t] = ngrams(text[starts[t] : starts[t + 1]], letters, upper, slots, rows, buffer, found)
        for i in range(counts[t]):
            row = weights[found[i]]
            for language in range(len(row)):
                sums[t, language] += row[language]


@dataclass(frozen=True)
class Detection:
    """The languages of n texts among L candidates."""

    candidates: tuple[str, ...]
    labels: list[str | None]
    """The likeliest; None for a text with no letters that any profile knows."""
    probabilities: NDArray[np.float64]
    """(n, L), each row sums to 1, or to 0 where the label is None; in units of 10^-DECIMALS."""

    @property
    def scores(self) -> NDArray[np.float64]:
        """(n,) the probability of each label."""
        return self.probabilities.max(axis=1, initial=0.0)

    def summed(self, languages: Sequence[str]) -> NDArray[np.float64]:
        """(n,) the probability that a text is in one of `languages`."""
        columns = [i for i, name in enumerate(self.candidates) if name in languages]
        return np.round(self.probabilities[:, columns].sum(axis=1), DECIMALS)

    def blended(self, context: "Detection", rows: NDArray[np.uint32], weight: float) -> "Detection":
        """Each text's probabilities mixed with those of the context that it stands in (`context` row `rows[i]`).

        Args:
            weight: share of the context, 0-1. A text without n-grams takes all from its context, and the other way round.
        """
        mixed = (1 - weight) * self.probabilities + weight * context.probabilities[rows]
        total = mixed.sum(axis=1, keepdims=True)
        known = total[:, 0] > 0
        shares: NDArray[np.float64] = np.zeros(mixed.shape)
        shares[known] = np.round(mixed[known] / total[known], DECIMALS)
        best, is_known = shares.argmax(axis=1).tolist(), known.tolist()
        labels = [self.candidates[i] if yes else None for i, yes in zip(best, is_known, strict=True)]
        return Detection(self.candidates, labels, shares)


def detect(
    texts: Sequence[str], candidates: Sequence[str] | None = None, mode: Mode = "fast", seed: int = 0
) -> Detection:
    """Detect the language of each text.

    Args:
        candidates: names of profiles to tell apart; None is all. Fewer make short texts safer.
        mode: `exact` is langdetect's answer, `fast` nearly always is, at several times the speed.
        seed: langdetect's, of the draws.

    Raises: ValueError for a name that is no profile.
    """
    model = load_model()
    names = model.languages if candidates is None else tuple(sorted(set(candidates)))
    if unknown := [name for name in names if name not in model.languages]:
        msg = f"no language profile {', '.join(map(repr, unknown))}; there are {', '.join(model.languages)}"
        raise ValueError(msg)
    columns = tuple(model.languages.index(name) for name in names)
    shares, counts = (
        replay(model, encoded(texts), columns, seed) if mode == "exact" else _cascade(model, texts, columns, seed)
    )
    probabilities = np.round(shares, DECIMALS)
    labels = [names[i] if n else None for i, n in zip(shares.argmax(axis=1).tolist(), counts.tolist(), strict=True)]
    return Detection(names, labels, probabilities)


def _cascade(
    model: Model, texts: Sequence[str], columns: tuple[int, ...], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    shares, counts = _posterior(model, encoded(texts), columns)
    shares[counts == 0] = 0
    unsure = np.flatnonzero((shares.max(axis=1, initial=0.0) < SURE) & (counts > 0)).tolist()
    if unsure:
        shares[unsure], _ = replay(model, encoded([texts[i] for i in unsure]), columns, seed)
    return shares, counts


def _posterior(model: Model, texts: Texts, columns: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """The naive Bayes posterior of each text (n, C), and its number of n-grams (n,)."""
    sums, counts = np.zeros((len(texts), len(model.languages)), np.int32), np.zeros(len(texts), np.int32)
    _score(
        *(texts.letters, texts.starts, model.letters, model.upper, model.slots, model.rows),
        *(_weights(), sums, counts),
    )
    costs = sums[:, list(columns)].astype(np.float64)
    odds = np.exp((costs.min(axis=1, keepdims=True, initial=2**31) - costs) / SCALE)
    return odds / odds.sum(axis=1, keepdims=True), counts
