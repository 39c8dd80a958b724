"""Defines `[download.hash_lists]`."""

import os
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from dataops.config import StageConfig
from plugins.moderation.pdq import MATCH_BITS, MIN_QUALITY
from tasks.lists.locations import Lists

KNOWN_HARM = "known_harm"
"""Drop reason of an image that a list names; the row has nothing else of it."""
Kind = Literal["md5", "sha1", "sha256", "pdq"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class HashListsConfig(StageConfig):
    """`[download.hash_lists]`: digests of known harmful images. A match leaves one counted row, without URL and caption."""

    md5: Lists = Field(default={})
    """Lists of MD5 (32 hex digits a line) of the bytes as fetched, by name: each a path, an https:// address or an s3://
    URI. Alerts and rows have the name."""
    sha1: Lists = Field(default={})
    """Lists of SHA-1 (40 hex digits)."""
    sha256: Lists = Field(default={})
    """Lists of SHA-256 (64 hex digits)."""
    pdq: Lists = Field(default={})
    """Lists of PDQ, a perceptual hash (64 hex digits), which also finds scaled and recompressed copies. Linux only."""
    pdq_max_distance: int = Field(default=MATCH_BITS, ge=0, le=64)
    """Maximum bits of 256 by which the PDQ of an image may differ from a listed one."""
    pdq_min_quality: int = Field(default=MIN_QUALITY, ge=0, le=100)
    """Minimum quality (a measure of PDQ for the detail of an image, 0 to 100) of an image that is compared by PDQ: hashes
    of nearly blank images resemble each other."""

    def locations(self) -> list[tuple[Kind, str, str]]:
        """Return the kind, the name and the location of each list."""
        return [(kind, name, where) for kind in KINDS for name, where in sorted(getattr(self, kind).items())]

    def key_config(self) -> dict[str, Any]:
        """Return the fields of the key: the names of the lists, whose content is an input, and the limits."""
        names = {kind: sorted(getattr(self, kind)) for kind in KINDS}
        return {**names, "pdq_max_distance": self.pdq_max_distance, "pdq_min_quality": self.pdq_min_quality}

    def problems(self) -> list[str]:
        """Return why the lists cannot be applied."""
        if self.pdq and not hasattr(os, "memfd_create"):
            return [
                "hash_lists.pdq: this system has no files in memory, through which images are handed to the process that "
                "decodes them; run on Linux, or use md5, sha1 and sha256"
            ]
        return []

    @model_validator(mode="after")
    def _has_lists(self) -> Self:
        if not self.locations():
            raise ValueError(f"names no list; set {', '.join(KINDS[:-1])} or {KINDS[-1]}, or remove the table")
        return self
