"""Finds the n-grams of a text as langdetect does, in compiled code.

Source: langdetect 1.0.9 (Apache-2.0), after Nakatani Shuyo, "Language Detection Library for Java", 2010. The algorithm is
reimplemented; tests compare the two.
"""

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

from dataops.kernels.cache_folder import Tables, load_or_build
from dataops.kernels.characters import next_code
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import text_buffers
from dataops.language import profiles as language_profiles
from dataops.language.profiles import SPACE, normalise_letters, profile_names, read_profiles

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
    sources = (Path(__file__), Path(language_profiles.__file__), version("langdetect"))
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
