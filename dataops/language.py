"""The language of captions: langdetect's algorithm over its own shipped profiles, without its sampling.

langdetect multiplies the probabilities of n-grams that it draws at random until one language has won, seven times over.
Here every n-gram (1 to 3 characters) of the text counts once: the answer is the naive Bayes posterior, which is the same
for the same text on every machine: weights are whole numbers, so their sums do not depend on any order of summation.

Source: langdetect 1.0.9 (Apache-2.0), after Nakatani Shuyo, "Language Detection Library for Java", 2010. Its profiles and
tables are read from the installed package; only the algorithm is written anew, and tests compare the two.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from dataops.language_profiles import SPACE, normal_letters, read_profiles

MAX_CHARS = 10_000
"""Characters of a text that count."""
SMOOTHING = 0.5 / 10_000
"""Added to each n-gram's probability: langdetect's mean alpha over its base frequency."""
SCALE = 4096
"""Weights are -log(probability) in units of 1/4096, and so fit 16 bits; a sum over MAX_CHARS fits 32."""
DECIMALS = 4
"""Of the probabilities given out."""

# Addresses are no language. Both patterns accept what langdetect's do.
_ADDRESS = re.compile(r"https?://[\w.?&~;+=/#-]{1,2076}", re.ASCII)
_MAIL = re.compile(r"[\w.-]{1,64}@[\w-]{1,255}[\w.-]{1,255}", re.ASCII)
# A Vietnamese letter followed by a tone mark becomes one letter.
_TONES = "\u0300\u0301\u0303\u0309\u0323"
_TONED = re.compile(f"([AEIOUYaeiouyÂÊÔâêôĂăƠơƯư])([{_TONES}])")


@dataclass(frozen=True)
class Model:
    """The profiles as arrays. N n-grams, L languages, S slots of the hash table (a power of two)."""

    languages: tuple[str, ...]
    letters: NDArray[np.uint32]  # (0x110000,) what each character is normalised to
    upper: NDArray[np.bool_]  # (0x110000,) of the normalised character
    slots: NDArray[np.int64]  # (S,) packed n-grams, -1 where empty
    rows: NDArray[np.int32]  # (S,) row of the n-gram in that slot
    weights: NDArray[np.uint16]  # (N, L) -log(probability) * SCALE


@lru_cache(maxsize=1)
def load_model() -> Model:
    """Read langdetect's profiles (0.4 s)."""
    languages, grams, chances = read_profiles()
    weights = np.rint(-np.log(chances + SMOOTHING) * SCALE).clip(0, 65_535).astype(np.uint16)
    letters = normal_letters()
    upper = np.zeros(len(letters), np.bool_)
    upper[[c for c in range(0x20000) if chr(c).isupper()]] = True  # Unicode has none above
    slots, rows = _hash_table(grams)
    return Model(languages, letters, upper[letters], slots, rows, weights)


def _hash_table(grams: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    size = 1 << (2 * len(grams)).bit_length()
    slots, rows = np.full(size, -1, np.int64), np.zeros(size, np.int32)
    packed = np.zeros(len(grams), np.int64)
    for i, gram in enumerate(grams):
        for letter in gram:
            packed[i] = packed[i] << 21 | ord(letter)
    _fill(slots, rows, packed)
    return slots, rows


def _compiled(**options: Any) -> Callable[..., Any]:
    """numba.njit whose result is cached on disk where some place for it can be written to."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba: no locator available
            return numba.njit(**options)(function)

    return compile_


@_compiled(inline="always")
def _slot(gram, mask):
    mixed = np.uint64(gram) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(32)) & mask


@_compiled()
def _fill(slots, rows, packed):
    mask = len(slots) - 1
    for i in range(len(packed)):
        at = _slot(packed[i], mask)
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = packed[i]
        rows[at] = i


@_compiled()
def _add(gram, slots, rows, weights, sums):
    """Add an n-gram's weights to `sums` (L,). False when no language has it."""
    mask = len(slots) - 1
    at = _slot(gram, mask)
    while slots[at] != gram:
        if slots[at] < 0:
            return False
        at = (at + 1) & mask
    row = weights[rows[at]]
    for language in range(len(row)):
        sums[language] += row[language]
    return True


@_compiled()
def _clean(text, buffer):
    """Copy the text without doubled spaces, and without Latin letters where it is mostly not Latin. Its length."""
    size, before, latin, other = 0, 0, 0, 0
    for i in range(min(len(text), MAX_CHARS)):
        letter = text[i]
        if letter != SPACE or before != SPACE:
            buffer[size] = letter
            size += 1
            if 65 <= letter <= 122:  # "A" to "z", as langdetect has it
                latin += 1
            elif letter >= 0x300:
                other += 1
        before = letter
    if latin * 2 >= other:
        return size
    kept = 0
    for i in range(size):
        if not 65 <= buffer[i] <= 122:
            buffer[kept] = buffer[i]
            kept += 1
    return kept


@_compiled(nogil=True)
def _score(text, starts, letters, upper, slots, rows, weights, sums, counts):
    """For each text the sum of its n-grams' weights (n, L), and how many n-grams it has that any language has (n,)."""
    buffer = np.empty(MAX_CHARS, np.uint32)
    for t in range(len(starts) - 1):
        size = _clean(text[starts[t] : starts[t + 1]], buffer)
        # The window of up to three characters; it starts anew after each space, with that space.
        first, second, third, held, capitals = 0, 0, SPACE, 1, False
        for i in range(size):
            letter = np.int64(letters[buffer[i]])
            last = third
            if last == SPACE:
                held, capitals = 1, False
                if letter == SPACE:
                    continue
            first, second, third = second, third, letter
            held = min(held + 1, 3)
            capitals = upper[letter] and (capitals or upper[last])
            if capitals:  # an acronym or a shout
                continue
            if letter != SPACE:
                counts[t] += _add(third, slots, rows, weights, sums[t])
            if held >= 2:
                counts[t] += _add(second << 21 | third, slots, rows, weights, sums[t])
            if held >= 3:
                counts[t] += _add(first << 42 | second << 21 | third, slots, rows, weights, sums[t])


def prepared(text: str) -> str:
    """The text without web and mail addresses, and with Vietnamese letters composed."""
    if "://" in text:
        text = _ADDRESS.sub(" ", text)
    if "@" in text:
        text = _MAIL.sub(" ", text)
    if not text.isascii():
        text = _TONED.sub(lambda m: unicodedata.normalize("NFC", m[0]), text)
    return text


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


def detect(texts: Sequence[str], candidates: Sequence[str] | None = None) -> Detection:
    """Detect the language of each text.

    Args:
        candidates: names of profiles to tell apart; None is all. Fewer make short texts safer.

    Raises: ValueError for a name that is no profile.
    """
    model = load_model()
    names = model.languages if candidates is None else tuple(sorted(set(candidates)))
    if unknown := [name for name in names if name not in model.languages]:
        msg = f"no language profile {', '.join(map(repr, unknown))}; there are {', '.join(model.languages)}"
        raise ValueError(msg)
    cleaned = [prepared(text) for text in texts]
    starts = np.zeros(len(cleaned) + 1, np.int64)
    np.cumsum([len(text) for text in cleaned], out=starts[1:])
    letters = np.frombuffer("".join(cleaned).encode("utf-32-le", "surrogatepass"), np.uint32)
    sums, counts = np.zeros((len(cleaned), len(model.languages)), np.int32), np.zeros(len(cleaned), np.int32)
    _score(letters, starts, model.letters, model.upper, model.slots, model.rows, model.weights, sums, counts)
    columns = [model.languages.index(name) for name in names]
    odds = sums[:, columns].astype(np.float64)
    odds = np.exp((odds.min(axis=1, keepdims=True, initial=2**31) - odds) / SCALE) if len(cleaned) else odds
    probabilities = np.round(odds / odds.sum(axis=1, keepdims=True), DECIMALS)
    probabilities[counts == 0] = 0
    labels = [names[i] if n else None for i, n in zip(odds.argmax(axis=1).tolist(), counts.tolist(), strict=True)]
    return Detection(names, labels, probabilities)
