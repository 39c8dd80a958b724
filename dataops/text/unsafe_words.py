"""Loads the lists of unsafe words by language from the package glin-profanity (MIT)."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files

from dataops.text.query_matching import Queries, compile_queries

LANGUAGES = {
    **{"ar": "arabic", "cs": "czech", "da": "danish", "de": "german", "en": "english", "es": "spanish"},
    **{"fa": "persian", "fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian", "it": "italian"},
    **{"ja": "japanese", "ko": "korean", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese"},
    **{"ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish", "zh": "chinese"},
}
"""Names of the package's lists by language code."""

# Only words are matched, so "a$$" would match "a"; and one Chinese character is part of too many harmless words.
_PLAIN = re.compile(r"[\w'-]{2,}(?: [\w'-]+)*")


def word_list_version() -> str:
    """Return the name and version of the package, for the snapshot's key."""
    return f"glin-profanity {version('glin-profanity')}"


@lru_cache(maxsize=4)
def load_unsafe_words(languages: Sequence[str]) -> Queries:
    """Return the words and phrases of some languages (a tuple of codes) for match_queries."""
    folder = files("glin_profanity").joinpath("data", "dictionaries")
    words: set[str] = set()
    for code in languages:
        listed = json.loads(folder.joinpath(f"{LANGUAGES[code]}.json").read_text("utf-8"))
        words.update(listed["words"] if isinstance(listed, dict) else listed)
    return compile_queries(sorted(filter(_PLAIN.fullmatch, words)))
