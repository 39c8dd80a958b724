"""Computes the counts that the rules of the filter need of captions, in one pass over a column's bytes.

With regular expressions, each count would be a pass of its own, and the slow rules (repeated words,
personal data) would run on every caption. Here, one pass computes the counts, and flags (`may_*`)
that are false only where a slow rule finds nothing. The character classes are those of the regular
expressions, which are evaluated once for each code point.
"""

from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.kernels.characters import ASSIGNED, UNSPACED, next_code
from dataops.kernels.compiled import compiled
from dataops.kernels.hashes import text_buffers

_WHITE, _UNSPACED, _LETTER, _DIGIT, _IN_PHONE, _GROWS, _SMALL, _CAPITAL = (1 << i for i in range(8))
_CLASSES = {
    _WHITE: r"\s",
    _UNSPACED: rf"[{UNSPACED}]",
    _LETTER: r"[\p{L}\p{M}]",
    _DIGIT: r"\d",
    _IN_PHONE: r"[ ()./-]",  # what may stand between the digits of a telephone number
    _GROWS: "\u0130",  # the only letter with more than one letter in lower case
}
_LEAST_DIGITS = 6  # minimum digits of a telephone number in any pattern of dataops.rules.captions
COUNTS = ("caption_chars", "caption_words", "caption_visible", "caption_letters", "caption_pieces", "caption_lengths")
FLAGS = ("caption_may_be_personal", "caption_capitals")


@lru_cache(maxsize=1)
def character_classes() -> NDArray[np.uint8]:
    """Return the classes of each code point as bits (0x110000,); takes 0.1 s."""
    codes = np.concatenate([np.arange(codes.start, codes.stop, dtype=np.uint32) for codes in ASSIGNED])
    characters = pl.Series(list(codes.tobytes().decode("utf-32-le")))
    found = np.zeros(0x110000, np.uint8)
    for bit, pattern in _CLASSES.items():
        found[codes[characters.str.contains(pattern).to_numpy()]] |= bit
    found[codes[(characters != characters.str.to_uppercase()).to_numpy()]] |= _SMALL
    found[codes[(characters != characters.str.to_lowercase()).to_numpy()]] |= _CAPITAL
    return found


def count_captions(captions: pl.Series) -> pl.DataFrame:
    """Compute the counts of each caption; they are null for a null caption.

    Returns: columns (UInt32 if not noted otherwise)
        caption_chars: number of code points.
        caption_words: number of words by white space; each letter of a script without spaces is one.
        caption_visible: number of characters that are not white space.
        caption_letters: number of letters and marks.
        caption_pieces: number of strings between single spaces, including empty ones.
        caption_lengths: at most the number of distinct such strings, in lower case.
        caption_may_be_personal: Boolean; false only where dataops.rules.captions finds nothing.
        caption_capitals: Boolean; whether there are capitals, and no letter that could be a capital is small.
    """
    data, offsets = text_buffers(captions.to_arrow())
    counts, flags = np.zeros((len(COUNTS), len(captions)), np.uint32), np.zeros((len(FLAGS), len(captions)), np.bool_)
    _count(data, offsets, character_classes(), counts, flags)
    frame = pl.DataFrame(dict(zip(COUNTS, counts, strict=True)) | dict(zip(FLAGS, flags, strict=True)))
    if captions.null_count():
        frame = frame.with_columns(pl.when(captions.is_not_null()).then(pl.all()))
    return frame


@compiled(inline="always")
def _ends_street(last_but_one, last):
    """Return whether a German word for a street may end in two letters: ße, se, ee, r., eg or tz."""
    if last == ord("e"):
        return last_but_one == ord("ß") or last_but_one == ord("s") or last_but_one == ord("e")
    if last == ord("."):
        return last_but_one == ord("r")
    return (last == ord("g") and last_but_one == ord("e")) or (last == ord("z") and last_but_one == ord("t"))


@compiled(inline="always")
def _begins_road(first, second):
    """Return whether an English word for a street may begin with two letters: St, Av, Ro, Rd, Bo, Bl, La, Ln or Dr."""
    if first == ord("S"):
        return second == ord("t")
    if first == ord("A"):
        return second == ord("v")
    if first == ord("R"):
        return second == ord("o") or second == ord("d")
    if first == ord("B"):
        return second == ord("o") or second == ord("l")
    if first == ord("L"):
        return second == ord("a") or second == ord("n")
    return first == ord("D") and second == ord("r")


@compiled(inline="always")
def _begins_top_level(code):
    """Return whether one of the top-level domains of dataops.rules.captions may begin with a letter."""
    small = code | np.uint32(32)
    return small == ord("c") or small == ord("o") or small == ord("n") or small == ord("i") or small == ord("b")


@compiled(nogil=True)
def _count(data, offsets, kinds, counts, flags):
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        chars = words = white = letters = spaces = length = digits = 0
        code, last, before_last, kind, last_kind = np.uint32(0), np.uint32(0), np.uint32(0), np.uint8(0), np.uint8(0)
        lengths, seen, inside, personal, house = np.uint64(0), np.uint8(0), False, False, False
        while at < end:
            third_last, before_last, last = before_last, last, code
            before_last_kind, last_kind = last_kind, kind
            code, at = next_code(data, at)
            kind = kinds[code]
            seen |= kind
            chars += 1
            length += 1
            letters += (kind & _LETTER) != 0
            if kind & _WHITE:
                white += 1
                inside = False
                if code == ord(" "):
                    spaces += 1
                    lengths |= np.uint64(1) << np.uint64((length - 1) & 63)
                    length = 0
            elif kind & _UNSPACED:
                words += 1
                inside = False
            else:
                words += not inside
                inside = True
            if kind & _DIGIT:
                digits += 1
                personal |= digits >= _LEAST_DIGITS or (last == ord(" ") and _ends_street(third_last, before_last))
            elif not kind & _IN_PHONE:
                digits = 0
            if last == ord("."):
                personal |= _begins_top_level(code)
            elif last == ord(" "):  # "12 Old ..."
                house |= (before_last_kind & _DIGIT) != 0 and ord("A") <= code <= ord("Z")
            elif before_last == ord(" ") and house:  # "... Road"
                personal |= _begins_road(last, code)
            personal |= code == ord("@") or (code == ord("/") and last == ord("/") and before_last == ord(":"))
            personal |= code == ord(".") and (last == ord("w") or last == ord("W"))
        lengths |= np.uint64(1) << np.uint64(length & 63)
        different = 0
        while lengths:
            lengths &= lengths - np.uint64(1)
            different += 1
        counts[0, i], counts[1, i], counts[2, i], counts[3, i] = chars, words, chars - white, letters
        counts[4, i], counts[5, i] = spaces + 1, 1 if seen & _GROWS else different
        flags[0, i], flags[1, i] = personal, (seen & _SMALL) == 0 and (seen & _CAPITAL) != 0
