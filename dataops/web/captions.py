"""Captions: their normal form, their bounds, and what identifies one beside its case and white space."""

import re
import unicodedata

_NOT_TEXT = re.compile(
    # C0 and C1 controls that are no white space, bidirectional and zero-width marks, noncharacters, lone surrogates.
    # U+200D (joins emoji) and U+200C (spells Persian and Indic words) stay.
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
    "\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]"
)


def normalise_caption(text: str, max_chars: int) -> str:
    """NFC, without control characters and lone surrogates, white space collapsed to single spaces, bounded.

    A caption over `max_chars` is cut at the last space before the bound, where there is one in its last fifth.
    """
    if (
        len(text) <= max_chars
        and text.isprintable()  # so there is no white space but the space, and nothing of _NOT_TEXT
        and "  " not in text
        and (text.isascii() or unicodedata.is_normalized("NFC", text))
        and text[:1] != " "
        and text[-1:] != " "
    ):
        return text  # as most are
    text = text[: 4 * max_chars + 4096]  # nothing below costs more than the bound allows
    if not text.isascii():
        text = unicodedata.normalize("NFC", _NOT_TEXT.sub("", text))
    elif not text.isprintable():
        text = _NOT_TEXT.sub("", text)
    text = " ".join(text.split())
    if len(text) > max_chars:
        cut = text.rfind(" ", max_chars - max_chars // 5, max_chars + 1)
        text = text[: cut if cut > 0 else max_chars].rstrip()
    return text


def fold_caption(caption: str) -> str:
    """The caption case-folded and with its white space normalised: equal for captions that differ in nothing else."""
    return " ".join(unicodedata.normalize("NFC", caption.casefold()).split())
