"""Rules on the length and the content of a caption. `caption_*` are the columns of count_captions."""

import re
from typing import Any, Literal

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, field_validator

from dataops.config import Share, StageConfig
from dataops.filters import Rule

# Personal data: mail and web addresses, telephone numbers, streets -----------------------------------------------------
# The patterns find the usual forms only; they do not prove that a caption has no personal data.

MASK = "<private>"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
PATTERNS: dict[str, str] = {
    "email": rf"(?i)\b[a-z0-9._%+-]{{1,64}}@(?:{_LABEL}\.)+[a-z]{{2,24}}\b",
    "web_address": rf"(?i)\b(?:https?://|www\.)[^\s<>]{{3,}}|\b(?:{_LABEL}\.)+(?:com|org|net|info|biz)\b(?:/[^\s<>]*)?",
    # With a country code, in North American groups, or after a word for telephone.
    "phone": r"\+\d{1,3}[ ()./-]{0,2}(?:\d[ ()./-]{0,2}){6,12}\d\b"
    r"|\(?\b\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"
    r"|(?i:\b(?:tel|phone|fon|fax|mobile|mobil|telefon|tél|call)\b[.:]{0,2} {0,2})\(?\+?(?:\d[ ()./-]{0,2}){5,14}\d\b",
    "street": r"\b\d{1,5} (?:[A-Z][\w'.-]+ ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr)\b"
    r"|\b[A-Z]\w+(?:straße|strasse|str\.|weg|gasse|platz|allee) \d{1,4}[a-z]?\b",
}
"""Patterns of personal data, for Rust's regex crate (which Polars uses)."""

_ANY = "|".join(f"(?:{pattern})" for pattern in PATTERNS.values())


class Personal(StageConfig):
    """The key of PERSONAL."""

    personal: Literal["keep", "drop", "mask"] = "drop"
    """Captions with an e-mail address, a URL, a telephone number or a street address: `drop` drops them as personal, `mask`
    replaces what was found with "<private>". The row keeps its uid."""


PERSONAL = Rule(
    reason="personal",
    meaning="The caption holds an e-mail address, a URL, a telephone number or a street address.",
    remedy='`filter.personal = "mask"` keeps the row without them',
    config=Personal,
    drops=lambda config: pl.col("caption").str.contains(_ANY) if config.personal == "drop" else None,
    may=lambda _: pl.col("caption_may_be_personal"),
    order=68,
)


def mask_personal_data(caption: pl.Expr) -> pl.Expr:
    """Replace each match of PATTERNS in a caption by MASK."""
    return caption.str.replace_all(_ANY, MASK)


def kept_caption(config: Any) -> pl.Expr:
    """Return the caption as the output of the filter has it: with personal data masked if `personal` is `mask`."""
    return mask_personal_data(pl.col("caption")) if config.personal == "mask" else pl.col("caption")


_IMAGE_FILE = (
    r"(?i)^[^\s/\\]+(?:[ _-][^\s/\\]+){0,3}\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|svg|avif|heic|psd|raw|cr2|nef)$"
)
_CAMERA_FILE = (
    r"(?i)^(?:img|dsc[nf]?|dscf|pict?|p\d|mvi|mvc|pxl|gopr|dji|screenshot|image|photo|untitled)[ _-]?[\d _.()-]{2,}$"
)
_MONTH = (  # whole words: "octopus", "Martinique" and "jungle" are not dates
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)(?:\b|\d)\.?"
)
_DATE_OR_SIZE = (
    rf"(?i)^(?:{_MONTH}|[\d\s.,:/x×-]|(?:px|pixels?|cm|mm|inch(?:es)?|dpi|kb|mb|am|pm|st|nd|rd|th|utc|gmt|t|z)\b)+$"
)
_CAPTION, _PIECES = pl.col("caption"), pl.col("caption_pieces")


def _check_maximum(most: int | None, info: ValidationInfo) -> int | None:
    """Check that a maximum, such as max_chars, is at least the minimum of the same unit."""
    minimum = str(info.field_name).replace("max_", "min_")
    if most is not None and most < info.data.get(minimum, 0):
        raise ValueError(f"{info.field_name} {most} is less than {minimum} {info.data[minimum]}")
    return most


class MinChars(StageConfig):
    """The key of TOO_SHORT."""

    min_chars: NonNegativeInt = 3
    """Shorter captions are dropped as too_short."""


class MinWords(StageConfig):
    """The key of TOO_FEW_WORDS."""

    min_words: NonNegativeInt = 1
    """Captions with fewer words are dropped as too_few_words. Each letter of a script without spaces is a word."""


class MaxChars(StageConfig):
    """The key of TOO_LONG."""

    max_chars: PositiveInt | None = 1000
    """Longer captions are dropped as too_long."""

    _check_max_chars = field_validator("max_chars")(_check_maximum)


class MaxWords(StageConfig):
    """The key of TOO_MANY_WORDS."""

    max_words: PositiveInt | None = 200
    """Captions with more words are dropped as too_many_words."""

    _check_max_words = field_validator("max_words")(_check_maximum)


class DropFileNames(StageConfig):
    """The key of FILE_NAME."""

    drop_file_names: bool = True
    """Drop captions that are only a file name ("IMG_2034.jpg", "DSC 0042") as file_name."""


class DropDatesAndSizes(StageConfig):
    """The key of DATE_OR_SIZE."""

    drop_dates_and_sizes: bool = True
    """Drop captions that are only dates, times, numbers or dimensions ("12 May 2021", "800 x 600 px") as date_or_size."""


class MinLetterFraction(StageConfig):
    """The key of FEW_LETTERS."""

    min_letter_fraction: Share = 0.4
    """Captions with a smaller share of letters among their visible characters are dropped as few_letters."""


class DropCapitals(StageConfig):
    """The key of ALL_CAPITALS."""

    drop_capitals: bool = False
    """Drop captions that are written in capitals only, as all_capitals."""


class MaxRepeatedFraction(StageConfig):
    """The key of REPEATED_WORDS."""

    max_repeated_fraction: Share | None = 0.7
    """Captions of four or more words with a larger share of repeated words are dropped as repeated_words."""

    def fewest_different(self) -> pl.Expr | None:
        """Return the number of different words of a caption below which it is dropped; None if the rule is off."""
        return None if self.max_repeated_fraction is None else (1 - self.max_repeated_fraction) * _PIECES


class Patterns(StageConfig):
    """The key of PATTERN."""

    patterns: dict[str, str] = Field(default={})
    """Regular expressions by name (Rust's syntax): captions that match one are dropped as pattern_NAME."""

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, pattern in patterns.items():
            if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
                raise ValueError(f"{name!r}: a pattern's name must be lower-case letters, digits and _")
            try:
                pl.Series(["x"]).str.contains(pattern)
            except pl.exceptions.ComputeError as error:
                raise ValueError(f"{name}: {pattern!r} is not a regular expression: {error}") from error
        return dict(sorted(patterns.items()))


TOO_SHORT = Rule(
    reason="too_short",
    meaning="The caption has too few characters.",
    config=MinChars,
    drops=lambda config: pl.col("caption_chars") < config.min_chars,
    order=50,
)
TOO_FEW_WORDS = Rule(
    reason="too_few_words",
    meaning="The caption has too few words.",
    config=MinWords,
    drops=lambda config: pl.col("caption_words") < config.min_words,
    order=52,
)
TOO_LONG = Rule(
    reason="too_long",
    meaning="The caption has too many characters.",
    config=MaxChars,
    drops=lambda config: None if config.max_chars is None else pl.col("caption_chars") > config.max_chars,
    order=54,
)
TOO_MANY_WORDS = Rule(
    reason="too_many_words",
    meaning="The caption has too many words.",
    config=MaxWords,
    drops=lambda config: None if config.max_words is None else pl.col("caption_words") > config.max_words,
    order=56,
)
FILE_NAME = Rule(
    reason="file_name",
    meaning='The caption is only a file name ("IMG_2034.jpg").',
    config=DropFileNames,
    drops=lambda config: (
        (_CAPTION.str.contains(_IMAGE_FILE) | _CAPTION.str.contains(_CAMERA_FILE)) if config.drop_file_names else None
    ),
    order=58,
)
DATE_OR_SIZE = Rule(
    reason="date_or_size",
    meaning='The caption is only a date, a time, a number or a size ("800 x 600 px").',
    config=DropDatesAndSizes,
    drops=lambda config: _CAPTION.str.contains(_DATE_OR_SIZE) if config.drop_dates_and_sizes else None,
    order=60,
)
FEW_LETTERS = Rule(
    reason="few_letters",
    meaning="Too few characters of the caption are letters.",
    config=MinLetterFraction,
    drops=lambda config: (
        pl.col("caption_letters") < pl.col("caption_visible") * config.min_letter_fraction
        if config.min_letter_fraction > 0
        else None
    ),
    order=62,
)
ALL_CAPITALS = Rule(
    reason="all_capitals",
    meaning="The caption is in capitals only.",
    config=DropCapitals,
    drops=lambda config: pl.col("caption_capitals") if config.drop_capitals else None,
    order=64,
)
REPEATED_WORDS = Rule(
    reason="repeated_words",
    meaning="Too many words of the caption are repeated.",
    config=MaxRepeatedFraction,
    drops=lambda config: (
        None
        if (fewest := config.fewest_different()) is None
        else _CAPTION.str.to_lowercase().str.split(" ").list.n_unique() < fewest
    ),
    may=lambda config: (
        None if (fewest := config.fewest_different()) is None else (_PIECES >= 4) & (pl.col("caption_lengths") < fewest)
    ),
    order=66,
)
PATTERN = Rule(
    reason="pattern_NAME",
    meaning="The caption matches your pattern NAME.",
    config=Patterns,
    drops=lambda config: {
        f"pattern_{name}": _CAPTION.str.contains(pattern) for name, pattern in config.patterns.items()
    },
    order=90,
)
