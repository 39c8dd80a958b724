"""The hook of a download that drops known harmful images: `[download.hash_lists]` (docs/hash-lists.md)."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dataops.formatting import format_counts, format_quantity
from dataops.snapshot import Input
from plugins.moderation.pdq import MATCH_BITS, MIN_QUALITY
from tasks.download.hooks import FetchHook, ShardHook
from tasks.lists.locations import Lists

logger = logging.getLogger(__name__)

KNOWN_HARM = "known_harm"
"""Drop reason of an image that a list names; the row has nothing else of it."""
Kind = Literal["md5", "sha1", "sha256", "pdq"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class HashListsConfig(BaseModel):
    """`[download.hash_lists]`: digests of known harmful images. A match leaves one counted row, without URL and caption."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

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


class HashLists(FetchHook):
    """Drops known harmful images, by lists of their digests, before they are written; default off."""

    config, table = HashListsConfig, "hash_lists"
    erased_reasons = frozenset({KNOWN_HARM})
    order = 10

    def key(self, config: Any) -> Mapping[str, Any]:
        return {"hash_lists": config.hash_lists.key_config()} if config.hash_lists else {}

    def problems(self, config: Any) -> list[str]:
        if not config.hash_lists:
            return []
        from plugins.moderation.hash_lists import find_problems

        return find_problems(config.hash_lists)

    def inputs(self, config: Any) -> list[Input]:
        if not config.hash_lists:
            return []
        from plugins.moderation.hash_lists import read_inputs

        return read_inputs(config.hash_lists)

    def start(self, work: Any, context: Any, started: Sequence[ShardHook]) -> ShardHook | None:
        if not (lists := work.config.hash_lists):
            return None
        from plugins.moderation.hash_lists import HarmCheck, put_lists

        stored = put_lists(work.draft, lists, work.made_of)
        return HarmCheck(stored, work.config.max_image_area, work.config.max_bytes)

    def finish(self, work: Any, facts: Mapping[str, Any]) -> None:
        if matches := facts.get(KNOWN_HARM):
            images = format_quantity(sum(matches.values()), "image")
            lists = format_counts(matches.items())
            logger.warning("download %s: %s on lists of known harmful images (%s)", work.draft.key, images, lists)


HASH_LISTS = HashLists()
