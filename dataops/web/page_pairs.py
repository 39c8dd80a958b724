"""What every extractor gives: candidates (a caption of an image), and where they stand."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

MAX_IMAGES = 20_000
"""Images taken of one page; the rest are counted as the damage `too_many_images`."""


@dataclass(frozen=True)
class PageBounds:
    """How long what is taken from a page may be, in characters."""

    caption: int
    url: int


class PagePair(NamedTuple):
    """One caption of one image; `reason` says why it cannot be used."""

    url: str
    """Canonical (dataops.web.urls), or what a dropped row keeps of it."""
    caption: str
    caption_source: str | None
    """As the column of that name; None for an image without a caption."""
    reason: str | None = None
    license: str | None = None
    declared_width: int | None = None
    declared_height: int | None = None
    extra: str | None = None


new_pair = partial(tuple.__new__, PagePair)
"""A candidate of all its fields: a third of the time of `Candidate(...)`, for many millions."""


@dataclass(frozen=True, slots=True)
class PageOrigin:
    """What the candidates of one page, or one row of a list, have in common."""

    page_url: str | None
    offset: int
    """Of the record in its file, in bytes; the row's number in a pair list."""
    page_language: str | None = None
    page_opt_out: str | None = None
