"""Lists of unsafe words by language, as the package glin-profanity (MIT) keeps them."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files

from dataops.text.query_matching import Queries, compile_queries

LANGUAGES = {
    **{
        "ar": "arabic",
        "cs": "czech",
        "da": "danish",
        "de": "german",
        "en": "english",
        "es": "spanish",
        "fa": "persian",
    },
    **{"fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian", "it": "italian", "ja": "japanese"},
    **{"ko": "korean", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese", "ru": "russian"},
    **{"sv": "swedish", "th": "thai", "tr": "turkish", "zh": "chinese"},
}
"""Codes of the languages that have a list."""


# Matching sees words only, so "a$$" would be the word "a"; and one Chinese character is part of too many harmless words.
_PLAIN = re.compile(r"[\w'-]{2,}(?: [\w'-]+)*")


def word_list_version() -> str:
    """What the lists are, for the snapshot's key."""
    return f"glin-profanity {version('glin-profanity')}"


@lru_cache(maxsize=4)
def load_unsafe_words(languages: Sequence[str]) -> Queries:
    """The words and phrases of some languages (a tuple of codes), to be matched as whole words in any case."""
    folder = files("glin_profanity").joinpath("data", "dictionaries")
    words: set[str] = set()
    for code in languages:
        listed = json.loads(folder.joinpath(f"{LANGUAGES[code]}.json").read_text("utf-8"))
        words.update(listed["words"] if isinstance(listed, dict) else listed)
    return compile_queries(sorted(filter(_PLAIN.fullmatch, words)))
