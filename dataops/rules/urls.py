"""Rules on the URL of an image."""

import re
from collections.abc import Sequence

import polars as pl
from pydantic import Field, field_validator

from dataops.config import StageConfig
from dataops.filters import Rule
from dataops.reasons import Reason
from dataops.web.urls import HOST

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
_URL = pl.col("url")
_IS_TINY = pl.min_horizontal("declared_width", "declared_height").fill_null(99) <= 2
MOST_LABELS = 6
"""Maximum number of labels of a blocked or allowed domain."""


class MaxUrlChars(StageConfig):
    """The key of URL_TOO_LONG."""

    max_url_chars: int | None = Field(default=2048, ge=16)
    """Rows with a longer URL are dropped as url_too_long."""


class BlockedExtensions(StageConfig):
    """The key of URL_EXTENSION."""

    blocked_extensions: list[str] = Field(default=["svg", "ico"])
    """Rows whose URL ends in one of these are dropped as url_extension. The defaults are formats without a decoder here."""

    @field_validator("blocked_extensions")
    @classmethod
    def _bare_extensions(cls, extensions: list[str]) -> list[str]:
        return sorted({extension.lower().removeprefix(".") for extension in extensions} - {""})


class DropTracking(StageConfig):
    """The key of TRACKING."""

    drop_tracking: bool = True
    """Drop tracking pixels, spacers and icons as tracking, by their URL or a declared side of at most 2 pixels."""


def _check_domains(domains: list[str]) -> list[str]:
    bare = sorted({domain.lower().strip(".") for domain in domains} - {""})
    if wrong := [domain for domain in bare if not re.fullmatch(r"[\w-]+(\.[\w-]+){0,5}", domain)]:
        raise ValueError(f"{wrong} are not domains of at most {MOST_LABELS} labels, such as example.org")
    return bare


class BlockedDomains(StageConfig):
    """The key of BLOCKED_DOMAIN."""

    blocked_domains: list[str] = Field(default=[])
    """Rows with an image on one of these domains, or a host below one, are dropped as blocked_domain."""

    _check_blocked = field_validator("blocked_domains")(_check_domains)


class AllowedDomains(StageConfig):
    """The key of NOT_ALLOWED_DOMAIN."""

    allowed_domains: list[str] = Field(default=[])
    """If not empty, rows with an image on any other domain are dropped as not_allowed_domain."""

    _check_allowed = field_validator("allowed_domains")(_check_domains)


def host(url: pl.Expr) -> pl.Expr:
    """Return the host name of a URL, in lower case; null for text that is not an http or https URL."""
    return url.str.extract(HOST, 1).str.to_lowercase()


def _in_domains(domains: Sequence[str]) -> pl.Expr:
    """Return whether the host of the URL is one of the domains, or below one."""
    name, labels = host(_URL), max(domain.count(".") + 1 for domain in domains)
    ends = [name.str.extract(rf"((?:[^.]+\.){{{n}}}[^.]+)$", 1) for n in range(labels)]
    return pl.any_horizontal([end.is_in(list(domains)).fill_null(value=False) for end in ends])


URL_TOO_LONG = Rule(
    reason=Reason.URL_TOO_LONG,
    meaning="The URL is longer than the limit.",
    config=MaxUrlChars,
    drops=lambda config: None if config.max_url_chars is None else _URL.str.len_chars() > config.max_url_chars,
    order=10,
)
URL_EXTENSION = Rule(
    reason="url_extension",
    meaning="The URL ends in a blocked extension, by default a format without a decoder.",
    config=BlockedExtensions,
    drops=lambda config: (
        _URL.str.contains(rf"(?i)^[^?#]*\.(?:{'|'.join(map(re.escape, config.blocked_extensions))})(?:[?#]|$)")
        if config.blocked_extensions
        else None
    ),
    order=12,
)
TRACKING = Rule(
    reason="tracking",
    meaning="The URL is that of a tracking pixel, spacer or icon.",
    config=DropTracking,
    drops=lambda config: (_URL.str.contains(_TRACKING) | _IS_TINY) if config.drop_tracking else None,
    order=14,
)
BLOCKED_DOMAIN = Rule(
    reason="blocked_domain",
    meaning="The image is on a blocked domain.",
    config=BlockedDomains,
    drops=lambda config: _in_domains(config.blocked_domains) if config.blocked_domains else None,
    order=16,
)
NOT_ALLOWED_DOMAIN = Rule(
    reason="not_allowed_domain",
    meaning="The image is not on an allowed domain.",
    config=AllowedDomains,
    drops=lambda config: ~_in_domains(config.allowed_domains) if config.allowed_domains else None,
    order=18,
)
