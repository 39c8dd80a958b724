"""Drop captions with unsafe words: those of the lists of the package glin-profanity (MIT)."""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files

import polars as pl
from pydantic import Field, field_validator

from dataops.config import StageConfig
from dataops.filters import Rule
from dataops.plugins import require
from dataops.snapshot import Input
from dataops.text.query_matching import Queries, compile_queries, match_queries

LANGUAGES = {
    **{"ar": "arabic", "cs": "czech", "da": "danish", "de": "german", "en": "english", "es": "spanish"},
    **{"fa": "persian", "fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian", "it": "italian"},
    **{"ja": "japanese", "ko": "korean", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese"},
    **{"ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish", "zh": "chinese"},
}
"""Names of the package's lists by language code."""

# Only words are matched, so "a$$" would match "a"; and one Chinese character is part of too many harmless words.
_PLAIN = re.compile(r"[\w'-]{2,}(?: [\w'-]+)*")


class UnsafeLanguages(StageConfig):
    """The key of UNSAFE."""

    unsafe_languages: list[str] = Field(default=[])
    """Codes of languages (en, de, ...) whose unsafe words drop a caption as unsafe."""

    @field_validator("unsafe_languages")
    @classmethod
    def _check_unsafe_languages(cls, codes: list[str]) -> list[str]:
        if unknown := [code for code in codes if code not in LANGUAGES]:
            raise ValueError(
                f"no list of unsafe words for {', '.join(map(repr, unknown))}; there are {', '.join(LANGUAGES)}"
            )
        return sorted(set(codes))


@lru_cache(maxsize=4)
def load_unsafe_words(*codes: str) -> Queries:
    """Return the words and phrases of some languages for match_queries."""
    folder = files("glin_profanity").joinpath("data", "dictionaries")
    words: set[str] = set()
    for code in codes:
        listed = json.loads(folder.joinpath(f"{LANGUAGES[code]}.json").read_text("utf-8"))
        words.update(listed["words"] if isinstance(listed, dict) else listed)
    return compile_queries(sorted(filter(_PLAIN.fullmatch, words)))


def _has_unsafe_word(config: UnsafeLanguages) -> pl.Expr | None:
    if not config.unsafe_languages:
        return None

    def match(captions: pl.Series) -> pl.Series:
        words = load_unsafe_words(*config.unsafe_languages)
        return pl.Series(match_queries(captions.to_arrow(), words)).list.len() > 0

    return pl.col("caption").map_batches(match, pl.Boolean, is_elementwise=True)


def _read_version(config: UnsafeLanguages) -> Iterator[Input]:
    if config.unsafe_languages:
        require(["glin_profanity"], "unsafe_words", "filter.unsafe_languages")
        yield Input(stage="source", key="unsafe words", digest=f"glin-profanity {version('glin-profanity')}")


UNSAFE = Rule(
    reason="unsafe",
    meaning="The caption holds a word of the lists of unsafe words.",
    config=UnsafeLanguages,
    drops=_has_unsafe_word,
    inputs=_read_version,
)
