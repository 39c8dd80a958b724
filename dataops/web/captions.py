"""Normalises and truncates captions."""

import re
import unicodedata

_NOT_TEXT = re.compile(
    # C0 and C1 controls except white space, bidirectional and zero-width marks, noncharacters, lone surrogates.
    # U+200D (joins emoji) and U+200C (used in Persian and Indic words) stay.
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
    "\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
)

MAX_MARKS = 30
"""Maximum number of combining marks of one character; more are removed. The time to sort them grows with their square.
Source: Unicode Standard Annex 15, section 13 (Stream-Safe Text Format)."""


def normalise_caption(text: str, max_chars: int) -> str:
    """Return the text in NFC, without control characters and lone surrogates, with single spaces, truncated.

    A caption over `max_chars` is cut at the last space before the limit, if there is one in its last fifth.
    """
    if (
        len(text) <= max_chars
        and text.isprintable()  # then the only white space is the space, and _NOT_TEXT matches nothing
        and "  " not in text
        and (text.isascii() or unicodedata.is_normalized("NFC", text))
        and text[:1] != " "
        and text[-1:] != " "
    ):
        return text
    text = text[: 4 * max_chars + 4096]  # limits the time that the steps below take
    if not text.isascii():
        text = _NOT_TEXT.sub("", text)
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", _limit_marks(text))
    elif not text.isprintable():
        text = _NOT_TEXT.sub("", text)
    text = " ".join(text.split())
    if len(text) > max_chars:
        cut = text.rfind(" ", max_chars - max_chars // 5, max_chars + 1)
        text = text[: cut if cut > 0 else max_chars].rstrip()
    return text


def _limit_marks(text: str) -> str:
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)
