"""Reads the profiles and tables of langdetect from the installed package.

It does not import numba, so that a config can be checked quickly.

Source: langdetect 1.0.9 (Apache-2.0): profiles/*, utils/messages.properties; utils/ngram.py for the normalisation of
characters.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

SPACE = 32


@lru_cache(maxsize=1)
def profile_names() -> tuple[str, ...]:
    """Return the names of langdetect's profiles, sorted (`en`, `zh-cn`, ...)."""
    folder = files("langdetect").joinpath("profiles")
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_file() and p.name[0] not in "._"))


def check_profiles(names: Iterable[str]) -> None:
    """Raise a ValueError that shows how languages are named, if a name is that of no profile."""
    known = profile_names()
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f'no language profile {", ".join(map(repr, unknown))}; write codes, for example ["en", "de"]; there are '
            f"{', '.join(known)}"
        )


def read_profiles() -> tuple[tuple[str, ...], list[str], NDArray[np.float64]]:
    """Read the profiles.

    Returns: the languages (L); the n-grams of 1 to 3 characters that any profile has (N, sorted); the share of each
        n-gram among those of its length in each language (N, L).
    """
    languages = profile_names()
    folder = files("langdetect").joinpath("profiles")
    profiles = [json.loads(folder.joinpath(name).read_text("utf-8")) for name in languages]
    grams = sorted({gram for profile in profiles for gram in profile["freq"] if 1 <= len(gram) <= 3})
    row_of = {gram: i for i, gram in enumerate(grams)}
    chances = np.zeros((len(grams), len(languages)))
    for column, profile in enumerate(profiles):
        totals = profile["n_words"]
        known = [(row_of[gram], n / totals[len(gram) - 1]) for gram, n in profile["freq"].items() if gram in row_of]
        rows, values = zip(*known, strict=True)
        chances[list(rows), column] = values
    return languages, grams, chances


def normalise_letters() -> NDArray[np.uint32]:
    """Return the normalised form of each character: punctuation is a space, the script of one language a letter."""
    letters = np.arange(0x110000, dtype=np.uint32)
    for c in range(0x80):
        if not (chr(c).isascii() and chr(c).isalpha()):
            letters[c] = SPACE
    letters[[0xA0, 0xAB, 0xB0, 0xBB]] = SPACE
    letters[0x2000:0x2070] = SPACE  # general punctuation
    letters[[0x219, 0x21B]] = [0x15F, 0x163]  # Romanian: comma below as cedilla
    letters[0x6CC] = 0x64A  # Farsi yeh as Arabic yeh
    letters[0x1EA0:0x1F00] = 0x1EC3  # Vietnamese
    letters[0x3040:0x30A0] = 0x3042  # Hiragana
    letters[0x30A0:0x3100] = 0x30A2  # Katakana
    letters[0x3100:0x3130] = letters[0x31A0:0x31C0] = 0x3105  # Bopomofo
    letters[0xAC00:0xD7B0] = 0xAC00  # Hangul
    table = files("langdetect").joinpath("utils", "messages.properties").read_text("utf-8")
    for line in table.splitlines():  # Chinese characters of similar frequency in each language become one
        name, _, value = line.partition("=")
        if name.startswith("NGram.KANJI"):
            alike = [int(code, 16) for code in value.split("\\u")[1:]]
            letters[alike] = alike[0]
    return letters
