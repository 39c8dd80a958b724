"""Finds the scripts of texts and of languages, which limit the possible languages of a text.

A language writes a script if at least the share WRITES of the letters in its profile is in it; Japanese writes three.
The possible languages of a text write at least one of the scripts of its letters; for a text without letters, all are
possible.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataops.kernels.compiled import compiled
from dataops.kernels.table_cache import Tables, load_or_build
from dataops.language import ngrams as language_ngrams
from dataops.language import profiles as language_profiles
from dataops.language.ngrams import MAX_CHARS, Model, Texts, encode_texts, load_model, row_of
from dataops.language.profiles import profile_names

WRITES = 0.1
"""Foreign letters are at most 6% of a profile (Latin in Punjabi); a script of the language has at least 27%
(Katakana)."""
OTHER = 1
"""Bit of all scripts that no profile writes."""


@lru_cache(maxsize=1)
def load_scripts() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the script of each letter as one bit (0x110000,), else 0; and the scripts of each language (L,)."""
    files = (__file__, language_ngrams.__file__, language_profiles.__file__)
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


def find_unwritten(texts: Sequence[str] | Texts, candidates: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Return whether each text has letters, but none in a script that a candidate (None: any profile) writes (n,).

    A Thai text with the candidates English and German is an example, or Armenian with all: a detector would only guess.
    """
    scripts, written = load_scripts()
    columns = [i for i, name in enumerate(profile_names()) if candidates is None or name in candidates]
    encoded = texts if isinstance(texts, Texts) else encode_texts(texts)
    found = np.zeros(len(encoded), np.bool_)
    _find_unwritten(encoded.letters, encoded.starts, scripts, np.bitwise_or.reduce(written[columns]), found)
    return found
