"""The rows that extractors of pages and WAT files return: pairs, usable or dropped, and the page of each."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

MAX_IMAGES = 20_000
"""Maximum number of images of one page; if there are more, the page is counted as the damage `too_many_images`."""


@dataclass(frozen=True)
class PageBounds:
    """Maximum lengths of the captions and URLs of a page, in characters."""

    caption: int
    url: int


class PagePair(NamedTuple):
    """One caption of one image."""

    url: str
    """Canonical URL (dataops.web.urls), or the truncated reference of a dropped row."""
    caption: str
    caption_source: str | None
    """Value of the column `caption_source`; None for an image without a caption."""
    reason: str | None = None
    """Drop reason; None for a pair that is kept."""
    license: str | None = None
    declared_width: int | None = None
    declared_height: int | None = None
    extra: str | None = None


new_pair = partial(tuple.__new__, PagePair)
"""Creates a PagePair from a tuple of all its fields, in a third of the time of `PagePair(...)`."""


@dataclass(frozen=True, slots=True)
class PageOrigin:
    """The values that all pairs of one page share."""

    page_url: str | None
    offset: int
    """Position of the page's record in its file, in bytes; for a site crawl, the number of the page."""
    page_language: str | None = None
    page_opt_out: str | None = None
