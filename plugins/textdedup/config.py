"""Define the table of near-duplicate captions."""

from typing import Literal

from pydantic import Field

from dataops.config import StageConfig

REASON, TABLE = "duplicate_near_caption", "near_captions"
KIND = "near_captions"
"""Tables of the captions of a dataset that grows: the halves of the uid, the caption and the bands of its signature."""


class NearCaptionsConfig(StageConfig):
    """`[filter.near_captions]`: keep one of the captions that differ in a few words or letters."""

    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Minimum Jaccard similarity of near-duplicates, over sets of three consecutive characters (folded case, without
    punctuation). At 0.8, about one word in ten may differ, or a letter in five words."""
    scope: Literal["host", "all"] = "host"
    """`host` compares captions of images on one host, and so finds the series and templates of a site. `all` compares
    the captions of all hosts, which leaves few images of each subject."""
