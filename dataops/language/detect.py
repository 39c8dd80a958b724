"""Detects the language of captions with langdetect's profiles, in compiled code.

Each n-gram (1 to 3 characters) of a text counts once, which gives the naive Bayes posterior among
the languages that write a script of the text. langdetect multiplies the probabilities of randomly
drawn n-grams until one language wins, which is not more often right, but too sure; and it takes a
quarter of the Chinese names of emoji for Korean, since its Korean profile has Chinese characters.

A language writes a script if at least the share WRITES of the letters in its profile is in it;
Japanese writes three. For a text without letters, all languages are possible.

The result for a text is the same on every machine: the weights are integers, so the order of summation does not matter.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels.characters import next_code
from dataops.kernels.compiled import Tables, compiled, load_or_build
from dataops.kernels.hashes import text_buffers
from dataops.language import profiles
from dataops.language.profiles import SPACE, check_profiles, normalise_letters, profile_names, read_profiles

MAX_CHARS = 10_000
"""Maximum characters of a text; the rest is ignored."""

# Web and mail addresses have no language. Both patterns match what langdetect's match.
_ADDRESS = re.compile(r"https?://[\w.?&~;+=/#-]{1,2076}", re.ASCII)
_MAIL = re.compile(r"[\w.-]{1,64}@[\w-]{1,255}[\w.-]{1,255}", re.ASCII)
# A Vietnamese letter followed by a tone mark becomes one letter.
_TONES = "\u0300\u0301\u0303\u0309\u0323"
_TONED = re.compile(f"([AEIOUYaeiouyÂÊÔâêôĂăƠơƯư])([{_TONES}])")
_SMALL, _CAPITAL, _MARK = 1, 2, 4


@dataclass(frozen=True, eq=False)
class Model:
    """The profiles as arrays, of N n-grams, L languages, and S slots of the hash table (a power of two)."""

    languages: tuple[str, ...]
    letters: NDArray[np.uint32]  # (0x110000,) the normalised character of each one
    upper: NDArray[np.bool_]  # (0x110000,) whether the normalised character is upper case
    slots: NDArray[np.int64]  # (S,) packed n-grams, -1 in an empty slot
    rows: NDArray[np.int32]  # (S,) row of the n-gram in that slot
    chances: NDArray[np.float64]  # (N, L) share of the n-gram among those of its length in the language
    cases: NDArray[np.uint8]  # (0x110000,) flags for encode_captions: _SMALL (or titlecase), _CAPITAL, _MARK


@dataclass(frozen=True)
class Texts:
    """n texts as code points."""

    letters: NDArray[np.uint32]  # the code points of all texts, one after the other
    starts: NDArray[np.int64]  # (n + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1


@lru_cache(maxsize=1)
def load_model() -> Model:
    """Read langdetect's profiles."""
    sources = (Path(__file__), Path(profiles.__file__), version("langdetect"))
    return Model(profile_names(), **load_or_build("language-profiles", sources, _build_model))


def _build_model() -> Tables:
    _, grams, chances = read_profiles()
    letters = normalise_letters()
    upper = np.zeros(len(letters), np.bool_)
    upper[[c for c in range(0x20000) if chr(c).isupper()]] = True  # Unicode has none above
    slots, rows = _hash_table(grams)
    tables = {"letters": letters, "upper": upper[letters], "slots": slots, "rows": rows, "chances": chances}
    return {**tables, "cases": _cases(upper)}


def _cases(upper: NDArray[np.bool_]) -> NDArray[np.uint8]:
    cases = np.where(upper, _CAPITAL, 0).astype(np.uint8)
    cases[[c for c in range(0x20000) if chr(c).islower() or (chr(c).istitle() and not upper[c])]] = _SMALL
    cases[[ord(c) for c in f"@{_TONES}"]] = _MARK
    return cases


def _encode_texts(texts: Sequence[str]) -> Texts:
    """Encode texts, without addresses, as code points."""
    plain = (text.isascii() and "@" not in text and "://" not in text for text in texts)
    cleaned = [text if is_plain else remove_addresses(text) for text, is_plain in zip(texts, plain, strict=True)]
    starts = np.zeros(len(cleaned) + 1, np.int64)
    np.cumsum([len(text) for text in cleaned], out=starts[1:])
    return Texts(np.frombuffer("".join(cleaned).encode("utf-32-le", "surrogatepass"), np.uint32), starts)


def encode_captions(texts: pa.Array) -> Texts:
    """Encode texts, without addresses, as code points; texts in capitals only in lower case.

    langdetect ignores words in capitals. Only the texts that are changed are converted to Python's
    strings.
    """
    data, offsets = text_buffers(texts)
    letters, starts = np.empty(offsets[-1] - offsets[0], np.uint32), np.zeros(len(offsets), np.int64)
    odd = np.zeros(len(texts), np.bool_)
    _decode(data, offsets, load_model().cases, letters, starts, odd)
    rows = np.flatnonzero(odd)
    # The index is a Polars series, since pa.array() would import pandas if it is installed: 0.5 s and 40 MB.
    found = texts.take(pl.Series(rows).to_arrow()).to_pylist()
    changed = _encode_texts([text.lower() if text.isupper() else text for text in found])
    lengths = np.diff(starts)
    lengths[rows] = np.diff(changed.starts)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    merged = np.empty(ends[-1], np.uint32)
    _merge(letters, starts, odd, changed.letters, ends, merged)
    merged.setflags(write=False)  # as in _encode_texts, else numba compiles a second version
    return Texts(merged, ends)


@compiled(nogil=True)
def _decode(data, offsets, cases, letters, starts, odd):
    """Write the code points of all texts, the end of each, and whether it may have to be changed."""
    size = 0
    for i in range(len(odd)):
        at, end, seen, address = offsets[i], offsets[i + 1], np.uint8(0), False
        last, code = np.uint32(0), np.uint32(0)
        while at < end:
            before, last = last, code
            code, at = next_code(data, at)
            seen |= cases[code]
            address |= code == ord("/") and last == ord("/") and before == ord(":")
            letters[size] = code
            size += 1
        starts[i + 1] = size
        odd[i] = address or seen & _MARK != 0 or seen & (_SMALL | _CAPITAL) == _CAPITAL


@compiled(nogil=True)
def _merge(letters, starts, odd, changed, ends, merged):
    """Write each text to `merged`, from `changed` if it is odd."""
    of_changed = 0
    for i in range(len(odd)):
        start, end = ends[i], ends[i + 1]
        if odd[i]:
            merged[start:end] = changed[of_changed : of_changed + end - start]
            of_changed += end - start
        else:
            merged[start:end] = letters[starts[i] : starts[i + 1]]


def remove_addresses(text: str) -> str:
    """Remove web and mail addresses from a text, and compose Vietnamese letters."""
    if "://" in text:
        text = _ADDRESS.sub(" ", text)
    if "@" in text:
        text = _MAIL.sub(" ", text)
    if not text.isascii():
        text = _TONED.sub(lambda m: unicodedata.normalize("NFC", m[0]), text)
    return text


def _hash_table(grams: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    size = 1 << (2 * len(grams)).bit_length()
    slots, rows = np.full(size, -1, np.int64), np.zeros(size, np.int32)
    packed = np.zeros(len(grams), np.int64)
    for i, gram in enumerate(grams):
        for letter in gram:
            packed[i] = packed[i] << 21 | ord(letter)
    _fill(slots, rows, packed)
    return slots, rows


@compiled(inline="always")
def _slot(gram, mask):
    mixed = np.uint64(gram) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(32)) & mask


@compiled()
def _fill(slots, rows, packed):
    mask = len(slots) - 1
    for i in range(len(packed)):
        at = _slot(packed[i], mask)
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = packed[i]
        rows[at] = i


@compiled()
def row_of(gram, slots, rows):
    """Return the row of an n-gram; -1 if no language has it."""
    mask = len(slots) - 1
    at = _slot(gram, mask)
    while slots[at] != gram:
        if slots[at] < 0:
            return np.int32(-1)
        at = (at + 1) & mask
    return rows[at]


@compiled()
def _clean(text, buffer):
    """Copy a text without repeated spaces, and without Latin letters if it is mostly not Latin; return its length."""
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


@compiled()
def find_ngrams(text, letters, upper, slots, rows, buffer, found):
    """Write the rows of the text's n-grams that a profile has to `found` (3 * MAX_CHARS + 1,), in langdetect's order.

    Args:
        buffer: work space (MAX_CHARS,).

    Returns: their number.
    """
    size, count = _clean(text, buffer), 0
    # The window of up to three characters; it is reset after each space, and begins with that space.
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
        if capitals:  # an acronym, or a word in capitals
            continue
        if letter != SPACE:
            found[count] = row_of(third, slots, rows)
            count += found[count] >= 0
        if held >= 2:
            found[count] = row_of(second << 21 | third, slots, rows)
            count += found[count] >= 0
        if held >= 3:
            found[count] = row_of(first << 42 | second << 21 | third, slots, rows)
            count += found[count] >= 0
    return count


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
    files = (__file__, profiles.__file__)
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

    A caption in capitals only is detected in lower case, since langdetect ignores words in
    capitals. One in a script that no candidate writes (Thai among English and German) has no
    language.

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
