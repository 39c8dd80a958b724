"""Define the rules on the caption and the URL of one row.

A rule is a named Polars expression that is true for the rows that it drops. The first true rule, in the order of `rules`,
gives the row's drop_reason. The config can turn each rule off.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field, field_validator, model_validator

from dataops.config import StageConfig
from dataops.kernels.characters import UNSPACED
from dataops.text.caption_counts import count_captions
from dataops.text.personal_data import has_personal_data
from dataops.text.url_signs import find_url_signs, parse_hosts
from dataops.web.urls import HOST

_WORD = rf"[{UNSPACED}]|[^\s{UNSPACED}]+"
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
_TRACKING_FILES = (
    *("pixel", "spacer", "blank", "transparent", "clear", "cleardot", "1x1", "0x0"),
    *("beacon", "favicon", "counter", "loading", "placeholder"),
)
_TRACKING_SITES = (
    *("doubleclick.net", "google-analytics.com", "googlesyndication.com", "scorecardresearch.com"),
    *("quantserve.com", "statcounter.com", "facebook.com/tr"),
)
_TRACKING = (
    rf"(?i)(?:^|[/_.-])(?:{'|'.join(_TRACKING_FILES)})"
    r"(?:[_.-]\d+)?\.(?:gif|png|jpe?g|ico|webp|svg|php|aspx?)(?:[?#]|$)"
    rf"|^https?://(?:[^/]+\.)?(?:{'|'.join(map(re.escape, _TRACKING_SITES))})(?:[/?:]|$)"
)
MOST_LABELS = 6
"""Maximum number of labels of a blocked or allowed domain."""

Directive = Literal[
    "noai", "noimageai", "noimageindex", "noindex", "none", "tdm-reservation", "content-usage", "content-signal", "rsl"
]


class RuleConfig(StageConfig):
    """Configure the rules on one row. None, an empty list or false turns a rule off."""

    min_chars: int = Field(default=3, ge=0)
    """Shorter captions are dropped as too_short."""
    max_chars: int | None = Field(default=1000, ge=1)
    """Longer captions are dropped as too_long."""
    min_words: int = Field(default=1, ge=0)
    """Captions with fewer words are dropped as too_few_words. Each letter of a script without spaces is a word."""
    max_words: int | None = Field(default=200, ge=1)
    """Captions with more words are dropped as too_many_words."""
    min_letter_fraction: float = Field(default=0.4, ge=0, le=1)
    """Captions with a smaller share of letters among their visible characters are dropped as few_letters."""
    max_repeated_fraction: float | None = Field(default=0.7, ge=0, le=1)
    """Captions of four or more words with a larger share of repeated words are dropped as repeated_words."""
    drop_capitals: bool = False
    """Drop captions that are written in capitals only, as all_capitals."""
    drop_file_names: bool = True
    """Drop captions that are only a file name ("IMG_2034.jpg", "DSC 0042") as file_name."""
    drop_dates_and_sizes: bool = True
    """Drop captions that are only dates, times, numbers or dimensions ("12 May 2021", "800 x 600 px") as date_or_size."""
    personal: Literal["keep", "drop", "mask"] = "drop"
    """Captions with an e-mail address, a URL, a telephone number or a street address: `drop` drops them as personal, `mask`
    replaces what was found with "<private>". The row keeps its uid."""
    patterns: dict[str, str] = Field(default={})
    """Regular expressions by name (Rust's syntax): captions that match one are dropped as pattern_NAME."""
    max_url_chars: int | None = Field(default=2048, ge=16)
    """Rows with a longer URL are dropped as url_too_long."""
    blocked_extensions: list[str] = Field(default=["svg", "ico"])
    """Rows whose URL ends in one of these are dropped as url_extension. The defaults are formats without a decoder here."""
    blocked_domains: list[str] = Field(default=[])
    """Rows with an image on one of these domains, or a host below one, are dropped as blocked_domain."""
    allowed_domains: list[str] = Field(default=[])
    """If not empty, rows with an image on any other domain are dropped as not_allowed_domain."""
    drop_tracking: bool = True
    """Drop tracking pixels, spacers and icons as tracking, by their URL or a declared side of at most 2 pixels."""
    opt_out: list[Directive] = Field(
        default=["noai", "noimageai", "noimageindex", "tdm-reservation", "content-usage", "content-signal", "rsl"]
    )
    """Rows of pages that declare one of these opt-outs are dropped as opt_out."""
    allow_licenses: list[str] = Field(default=[])
    """If not empty, rows without a declared licence, or whose licence does not start with one of these URLs (without a
    scheme, such as "creativecommons.org/licenses/by/"), are dropped as license."""
    min_declared_side: int | None = Field(default=None, ge=1)
    """Rows whose page declares a smaller width or height, in pixels, are dropped as declared_too_small."""
    max_declared_aspect: float | None = Field(default=None, ge=1)
    """Rows whose page declares a larger ratio of longer to shorter side are dropped as declared_aspect."""

    @field_validator("blocked_extensions")
    @classmethod
    def _bare(cls, extensions: list[str]) -> list[str]:
        return sorted({extension.lower().removeprefix(".") for extension in extensions} - {""})

    @field_validator("blocked_domains", "allowed_domains")
    @classmethod
    def _hosts(cls, domains: list[str]) -> list[str]:
        bare = sorted({domain.lower().strip(".") for domain in domains} - {""})
        if wrong := [domain for domain in bare if not re.fullmatch(r"[\w-]+(\.[\w-]+){0,5}", domain)]:
            raise ValueError(f"{wrong} are not domains of at most {MOST_LABELS} labels, such as example.org")
        return bare

    @field_validator("allow_licenses")
    @classmethod
    def _no_scheme(cls, licenses: list[str]) -> list[str]:
        return sorted({re.sub(r"^(?:https?:)?//(?:www\.)?", "", license_.lower()) for license_ in licenses} - {""})

    @field_validator("patterns")
    @classmethod
    def _expressions(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, pattern in patterns.items():
            if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
                raise ValueError(f"{name!r}: a pattern's name must be lower-case letters, digits and _")
            try:
                pl.Series(["x"]).str.contains(pattern)
            except pl.exceptions.ComputeError as error:
                raise ValueError(f"{name}: {pattern!r} is not a regular expression: {error}") from error
        return dict(sorted(patterns.items()))

    @model_validator(mode="after")
    def _bounds(self) -> "RuleConfig":
        wrong = []
        if self.max_chars is not None and self.max_chars < self.min_chars:
            wrong.append(f"max_chars {self.max_chars} is less than min_chars {self.min_chars}")
        if self.max_words is not None and self.max_words < self.min_words:
            wrong.append(f"max_words {self.max_words} is less than min_words {self.min_words}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class Rule(NamedTuple):
    """Define a rule on one row."""

    name: str
    """Drop reason of its rows."""
    drops: pl.Expr
    """Expression over the columns of PAIRS, count_captions and find_url_signs: true for rows to drop."""
    may: pl.Expr | None = None
    """Cheap test for a costly rule: false only where `drops` is not true. `drops` is evaluated on the other rows only."""


def word_count(caption: pl.Expr) -> pl.Expr:
    """Count the words of a caption (UInt32): by white space, and each letter of a script without spaces is a word."""
    return caption.str.count_matches(_WORD)


def host(url: pl.Expr) -> pl.Expr:
    """Return the host name of a URL, in lower case."""
    unusual = pl.col("url").str.extract(HOST, 1).str.to_lowercase()
    return url.map_batches(lambda urls: parse_hosts(urls, unusual), pl.String, is_elementwise=True)


def rules(config: RuleConfig) -> list[Rule]:
    """Return the rules that the config turns on, those on URLs first."""
    return [*_url_rules(config), *_page_rules(config), *_caption_rules(config)]


def _url_rules(config: RuleConfig) -> list[Rule]:
    url, enabled = pl.col("url"), list[Rule]()
    if config.max_url_chars is not None:
        may = url.str.len_bytes() > config.max_url_chars
        enabled.append(Rule("url_too_long", url.str.len_chars() > config.max_url_chars, may))
    if config.blocked_extensions:
        extensions = "|".join(map(re.escape, config.blocked_extensions))
        ends = url.str.contains(rf"(?i)^[^?#]*\.(?:{extensions})(?:[?#]|$)")
        enabled.append(Rule("url_extension", ends, pl.col("url_may_end") if _are_plain(config) else None))
    if config.drop_tracking:
        least = pl.min_horizontal("declared_width", "declared_height").fill_null(99)
        tiny = least <= 2
        enabled.append(Rule("tracking", url.str.contains(_TRACKING) | tiny, pl.col("url_may_have_word") | tiny))
    if config.blocked_domains:
        enabled.append(Rule("blocked_domain", _in_domains(host(url), config.blocked_domains)))
    if config.allowed_domains:
        enabled.append(Rule("not_allowed_domain", ~_in_domains(host(url), config.allowed_domains)))
    return enabled


def _in_domains(name: pl.Expr, domains: Sequence[str]) -> pl.Expr:
    """Return whether a host is one of the domains, or below one."""
    labels = max(domain.count(".") + 1 for domain in domains)
    ends = [name.str.extract(rf"((?:[^.]+\.){{{n}}}[^.]+)$", 1) for n in range(labels)]
    return pl.any_horizontal([end.is_in(list(domains)).fill_null(value=False) for end in ends])


def _page_rules(config: RuleConfig) -> list[Rule]:
    """Return the rules on what the page declares."""
    enabled: list[Rule] = []
    if config.opt_out:
        directives = "|".join(map(re.escape, config.opt_out))
        enabled.append(Rule("opt_out", pl.col("page_opt_out").str.contains(rf"(?:^|,)(?:{directives})(?:,|$)")))
    if config.allow_licenses:
        bare = pl.col("license").str.to_lowercase().str.replace(r"^(?:https?:)?//(?:www\.)?", "")
        allowed = [bare.str.starts_with(license_) for license_ in config.allow_licenses]
        enabled.append(Rule("license", ~pl.any_horizontal(allowed).fill_null(value=False)))
    sides = ["declared_width", "declared_height"]
    least, most = pl.min_horizontal(sides), pl.max_horizontal(sides)
    if config.min_declared_side is not None:
        enabled.append(Rule("declared_too_small", least < config.min_declared_side))
    if config.max_declared_aspect is not None:
        both = pl.all_horizontal([pl.col(side).is_not_null() for side in sides])
        enabled.append(Rule("declared_aspect", both & (most > least * config.max_declared_aspect)))
    return enabled


def _caption_rules(config: RuleConfig) -> list[Rule]:
    caption, chars, words = pl.col("caption"), pl.col("caption_chars"), pl.col("caption_words")
    enabled: list[Rule] = [
        Rule("too_short", chars < config.min_chars),
        Rule("too_few_words", words < config.min_words),
    ]
    if config.max_chars is not None:
        enabled.append(Rule("too_long", chars > config.max_chars))
    if config.max_words is not None:
        enabled.append(Rule("too_many_words", words > config.max_words))
    if config.drop_file_names:
        named = caption.str.contains(_IMAGE_FILE) | caption.str.contains(_CAMERA_FILE)
        enabled.append(Rule("file_name", named, pl.col("caption_may_be_file")))
    if config.drop_dates_and_sizes:
        enabled.append(Rule("date_or_size", caption.str.contains(_DATE_OR_SIZE), pl.col("caption_may_be_date")))
    if config.min_letter_fraction > 0:
        enough = pl.col("caption_visible") * config.min_letter_fraction
        enabled.append(Rule("few_letters", pl.col("caption_letters") < enough))
    if config.drop_capitals:
        enabled.append(Rule("all_capitals", pl.col("caption_capitals")))
    if config.max_repeated_fraction is not None:
        total = pl.col("caption_pieces")
        fresh = (1 - config.max_repeated_fraction) * total
        may = (total >= 4) & (pl.col("caption_lengths") < fresh)
        different = caption.str.to_lowercase().str.split(" ").list.n_unique()
        enabled.append(Rule("repeated_words", different < fresh, may))
    if config.personal == "drop":
        enabled.append(Rule("personal", has_personal_data(caption), pl.col("caption_may_be_personal")))
    return enabled + [
        Rule(f"pattern_{name}", caption.str.contains(pattern)) for name, pattern in config.patterns.items()
    ]


def _are_plain(config: RuleConfig) -> bool:
    """Return whether find_url_signs can search for the extensions."""
    return all(extension.isascii() and extension.isalnum() for extension in config.blocked_extensions)


def evaluate_rules(rows: pl.DataFrame, config: RuleConfig, counts: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return whether each rule drops each row: one Boolean column per rule, without nulls, in the order of `rules`.

    Args:
        counts: result of count_captions for the captions; computed if None.
    """
    if counts is None:
        counts = count_captions(rows["caption"])
    endings = config.blocked_extensions if _are_plain(config) else []
    signs = find_url_signs(rows["url"], [*_TRACKING_FILES, *_TRACKING_SITES], endings)
    enabled, columns = rules(config), pl.concat([rows, counts, signs], how="horizontal")
    cheap = ((rule.drops if rule.may is None else rule.may).fill_null(value=False).alias(rule.name) for rule in enabled)
    drops = columns.select(cheap)
    costly = [rule for rule in enabled if rule.may is not None]
    return drops.with_columns(_evaluate_marked(columns, rule, drops[rule.name]) for rule in costly)


def _evaluate_marked(columns: pl.DataFrame, rule: Rule, may: pl.Series) -> pl.Series:
    """Evaluate a costly rule on the rows that `may` marks."""
    indices = may.arg_true()
    if not len(indices):
        return may
    some = pl.DataFrame([columns[name][indices] for name in set(rule.drops.meta.root_names())])
    dropped = some.select(rule.drops.fill_null(value=False)).to_series()
    return may.scatter(indices, dropped)


def first_drop_reason(drops: pl.DataFrame) -> pl.Series:
    """Return the name of the first column that is true in each row (String), or null if none is."""
    first = np.zeros(drops.height, np.uint32)
    for number in range(drops.width, 0, -1):
        first[drops[:, number - 1].to_numpy()] = number
    return pl.Series("drop_reason", [None, *drops.columns], pl.String)[first]
