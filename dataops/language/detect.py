"""Detects the language of captions with langdetect's profiles, in compiled code.

Each n-gram (1 to 3 characters) of a text counts once, which gives the naive Bayes posterior among the languages that write
a script of the text. langdetect multiplies the probabilities of randomly drawn n-grams until one language wins, which is
not more often right, but too sure; and it takes a quarter of the Chinese names of emoji for Korean, since its Korean
profile has Chinese characters.

A language writes a script if at least the share WRITES of the letters in its profile is in it; Japanese writes three.
For a text without letters, all languages are possible.

The result for a text is the same on every machine: the weights are integers, so the order of summation does not matter.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.cache_folder import Tables, load_or_build
from dataops.kernels.compiled import compiled
from dataops.language import ngrams, profiles
from dataops.language.ngrams import MAX_CHARS, Model, encode_captions, find_ngrams, load_model, row_of
from dataops.language.profiles import check_profiles, profile_names

SMOOTHING = 0.5 / 10_000
"""Added to the probability of each n-gram: langdetect's mean alpha divided by its base frequency."""
SCALE = 4096
"""Weights are -log(probability) in units of 1/4096, which fit 16 bits; a sum over MAX_CHARS fits 32."""
NOTHING = 40
"""A language that is exp(-40) times as likely as the best has probability 0."""
DECIMALS = 4
"""Decimals of the returned probabilities."""
WRITES = 0.1
"""Foreign letters are at most 6% of a profile (Latin in Punjabi); a script of the language has at least 27%
(Katakana)."""
OTHER = 1
"""Bit of all scripts that no profile writes."""
_WORST = np.iinfo(np.int32).max
_LANES = 32
"""Number of weights that are processed together: whole vectors of a processor take a third of the time."""


@lru_cache(maxsize=1)
def load_scripts() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the script of each letter as one bit (0x110000,), else 0; and the scripts of each language (L,)."""
    files = (__file__, ngrams.__file__, profiles.__file__)
    tables = load_or_build("language-scripts", (*map(Path, files), version("langdetect")), _build_scripts)
    return tables["scripts"], tables["written"]


def _build_scripts() -> Tables:
    model = load_model()
    names: dict[str, list[int]] = {}
    for c in range(0x40000):  # there are no letters above
        if unicodedata.category(chr(c)) in ("Lu", "Ll", "Lt", "Lo"):
            names.setdefault(_script(chr(c)), []).append(c)
    shares = {name: _share(model, characters) for name, characters in names.items()}
    letters = np.sum(list(shares.values()), axis=0)
    scripts, written = np.zeros(0x110000, np.uint32), np.zeros(len(model.languages), np.uint32)
    bit = OTHER
    for name, characters in names.items():
        writers = shares[name] >= WRITES * letters
        bit <<= bool(writers.any())
        scripts[characters] = bit if writers.any() else OTHER
        written[writers] |= np.uint32(bit)
    return {"scripts": scripts, "written": written}


def _script(letter: str) -> str:
    """Return the script of a letter: the first word of the name of its compatibility form."""
    return unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "?").split()[0].split("-")[0]


def _share(model: Model, characters: Sequence[int]) -> NDArray[np.float64]:
    """Return the share of some characters in each profile (L,)."""
    rows = [row for c in characters if (row := row_of(c, model.slots, model.rows)) >= 0]
    return model.chances[rows].sum(axis=0)


@compiled()
def find_scripts(text, scripts):
    """Return the bits of all scripts in a text (code points)."""
    found = np.uint32(0)
    for i in range(min(len(text), MAX_CHARS)):
        found |= scripts[text[i]]
    return found


@compiled(nogil=True)
def _find_unwritten(text, starts, scripts, written, found):
    for t in range(len(starts) - 1):
        bits = find_scripts(text[starts[t] : starts[t + 1]], scripts)
        found[t] = bits != 0 and bits & written == 0


def find_unwritten(captions: pa.Array, candidates: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Return whether each text has letters, but none in a script that a candidate (None: any profile) writes (n,).

    A Thai text with the candidates English and German is an example, or Armenian with all: a detector would only guess.
    """
    scripts, written = load_scripts()
    columns = [i for i, name in enumerate(profile_names()) if candidates is None or name in candidates]
    encoded = encode_captions(captions)
    found = np.zeros(len(encoded), np.bool_)
    _find_unwritten(encoded.letters, encoded.starts, scripts, np.bitwise_or.reduce(written[columns]), found)
    return found


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
def _score(text, starts, letters, upper, slots, rows, scripts, written, weights, places, narrow, shares, counts):
    """Write the posterior of each text (n, C), and its number of n-grams that a profile has (n,).

    Both stay 0 where no candidate writes a script of the text. Candidates that write none of them have probability 0.
    """
    buffer, found = np.empty(MAX_CHARS, np.uint32), np.empty(3 * MAX_CHARS + 1, np.int32)
    sums, costs = np.empty(weights.shape[1], np.int32), np.empty(len(written), np.int32)
    for t in range(len(starts) - 1):
        one = text[starts[t] : starts[t + 1]]
        own, best, writers = find_scripts(one, scripts), _WORST, False
        count = find_ngrams(one, letters, upper, slots, rows, buffer, found)
        width = narrow if own == scripts[ord("a")] else len(sums)
        _sum_up(found[:count], weights, width, sums)
        for language in range(len(written)):
            writes = own == 0 or own & written[language] != 0
            writers |= writes
            costs[language] = sums[places[language]] if writes else _WORST
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


def check_candidates(candidates: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the candidates, sorted; None is all profiles. Raises: ValueError for a name of no profile."""
    names = profile_names() if candidates is None else tuple(sorted(set(candidates)))
    check_profiles(names)
    return names


def detect(captions: pa.Array, candidates: Sequence[str] | None = None, *, rounded: bool = True) -> Detection:
    """Detect the language of each caption.

    A caption in capitals only is detected in lower case, since langdetect ignores words in capitals. One in a script that
    no candidate writes (Thai among English and German) has no language.

    Args:
        captions: strings without null.
        candidates: names of the profiles to choose from; None is all. Fewer candidates give fewer errors on short texts.
        rounded: round the probabilities to DECIMALS.

    Raises: ValueError for a name that is not a profile.
    """
    names, model, texts = check_candidates(candidates), load_model(), encode_captions(captions)
    columns = tuple(model.languages.index(name) for name in names)
    shares, counts = np.zeros((len(texts), len(columns))), np.zeros(len(texts), np.int32)
    scripts, written = load_scripts()
    _score(
        *(texts.letters, texts.starts, model.letters, model.upper, model.slots, model.rows),
        *(scripts, written[list(columns)], *_compute_weights(columns), shares, counts),
    )
    best = np.where(counts > 0, shares.argmax(axis=1), -1)
    return Detection(names, best, np.round(shares, DECIMALS, out=shares) if rounded else shares)
