"""The scripts of texts and of languages: which languages can be in question for a text at all.

A language writes a script when at least WRITES of the letters in its profile are of it; Japanese writes three. A text is
in question for the languages that write one of the scripts of its letters, a text without letters for all.
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
"""Strange letters are at most 6% of a profile (Latin in Punjabi); the least of its own are 27% (Katakana in Japanese)."""
OTHER = 1
"""The bit of all scripts that no profile writes."""


@lru_cache(maxsize=1)
def load_scripts() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The script of each character as one bit (0x110000,), 0 for what is no letter; and those of each language (L,)."""
    files = (__file__, language_ngrams.__file__, language_profiles.__file__)
    tables = load_or_build("language-scripts", (*map(Path, files), version("langdetect")), _build_scripts)
    return tables["scripts"], tables["written"]


def _build_scripts() -> Tables:
    model = load_model()
    names: dict[str, list[int]] = {}
    for c in range(0x40000):  # above are no letters
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
    """The first word of a character's name says its script; of a compatibility form, the name of what it stands for."""
    return unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "?").split()[0].split("-")[0]


def _share(model: Model, characters: Sequence[int]) -> NDArray[np.float64]:
    """(L,) the share of some characters in each profile."""
    rows = [row for c in characters if (row := row_of(c, model.slots, model.rows)) >= 0]
    return model.chances[rows].sum(axis=0)


@compiled()
def find_scripts(text, scripts):
    """The bits of all scripts in a text (code points)."""
    found = np.uint32(0)
    for i in range(min(len(text), MAX_CHARS)):
        found |= scripts[text[i]]
    return found


@compiled(nogil=True)
def _unwritten(text, starts, scripts, written, answers):
    for t in range(len(starts) - 1):
        found = find_scripts(text[starts[t] : starts[t + 1]], scripts)
        answers[t] = found != 0 and found & written == 0


def find_unwritten(texts: Sequence[str] | Texts, candidates: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """(n,) whether a text has letters, but none in a script that one of the candidates (None: any profile) writes.

    Thai among English and German is such a text, and Armenian among all: a detector that must choose would guess.
    """
    scripts, written = load_scripts()
    columns = [i for i, name in enumerate(profile_names()) if candidates is None or name in candidates]
    ready = texts if isinstance(texts, Texts) else encode_texts(texts)
    answers = np.zeros(len(ready), np.bool_)
    _unwritten(ready.letters, ready.starts, scripts, np.bitwise_or.reduce(written[columns]), answers)
    return answers
