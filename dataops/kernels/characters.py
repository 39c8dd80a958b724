"""Arrays for compiled code: the role of each Unicode character in a text's words, and its folded form."""

import unicodedata
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled, load_or_build

GAP, LETTER, WORD = 0, 1, 2
"""Roles: between words; part of a word; a word by itself, in scripts without spaces between words."""

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts without spaces between words, for a regular expression's class: each letter counts as a word."""
_UNSPACED_NAMES = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY IDEOGRAPH",
    "HIRAGANA",
    "KATAKANA",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
)
_CODES = 0x110000
ASSIGNED = (range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE1000))
"""Code points that may be a letter, mark or number. The planes between them, and the last two, hold none."""
MOST_FOLDED = 3
"""Maximum number of code points in a folded code point."""


class Characters(NamedTuple):
    """Arrays over all code points."""

    kinds: NDArray[np.uint8]  # (0x110000,)
    folds: NDArray[np.uint32]  # (0x110000,) what it is folded to, or 0x110000 + a row of `several`
    several: NDArray[np.uint32]  # (M, 3) of those that fold to more than one, 0 where there is no more


@lru_cache(maxsize=1)
def characters() -> Characters:
    """Return the table for the Unicode version of this Python. Folding is `str.casefold`."""
    return Characters(**load_or_build("characters", (Path(__file__),), lambda: _build()._asdict()))


def _build() -> Characters:
    kinds, folds = np.zeros(_CODES, np.uint8), np.arange(_CODES, dtype=np.uint32)
    several: list[list[int]] = []
    for code in chain(*ASSIGNED):
        character = chr(code)
        if unicodedata.category(character)[0] not in "LMN":
            continue
        kinds[code] = WORD if unicodedata.name(character, "").startswith(_UNSPACED_NAMES) else LETTER
        folded = [ord(c) for c in character.casefold()]
        if len(folded) == 1:
            folds[code] = folded[0]
        else:
            folds[code] = _CODES + len(several)
            several.append([*folded, 0, 0][:MOST_FOLDED])
    return Characters(kinds, folds, np.array(several, np.uint32))


@compiled(inline="always")
def next_code(data, at):
    """Return the code point at a position of UTF-8 that Arrow has validated, and the position after it."""
    code = np.uint32(data[at])
    at += 1
    if code >= 0x80:
        more = 1 if code < 0xE0 else 2 if code < 0xF0 else 3
        code &= np.uint32(0x3F >> more)
        for _ in range(more):
            code = (code << np.uint32(6)) | (np.uint32(data[at]) & np.uint32(0x3F))
            at += 1
    return code, at


@compiled(inline="always")
def fold(code, folds, several, folded):
    """Write the folded form of a code point to `folded` (MOST_FOLDED,); return its number of code points."""
    target = folds[code]
    if target < 0x110000:
        folded[0] = target
        return 1
    count = 0
    for i in range(3):
        if several[target - 0x110000, i]:
            folded[i] = several[target - 0x110000, i]
            count += 1
    return count
