"""The hook of a download that drops known harmful images: `[download.hash_lists]` (docs/rights/hash-lists.md)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dataops.facts import DownloadFacts
from dataops.formatting import format_counts, format_quantity
from dataops.schema import DropReason
from dataops.snapshot import Draft, Input
from plugins.moderation.lists_config import KNOWN_HARM, HashListsConfig
from tasks.download.hooks import FetchHook, ShardHook

if TYPE_CHECKING:
    from plugins.moderation.hash_lists import StoredHashLists

logger = logging.getLogger(__name__)

_BYTES_PER_PIXEL, _EXTRA_BYTES = 24, 256 << 20
"""Memory that decoding an image and its PDQ take at most: for each pixel, and besides."""


@dataclass(frozen=True)
class HarmCheck(ShardHook):
    """The lists and the limits of the decoder, for the tasks of a run."""

    lists: "StoredHashLists"
    max_image_area: int
    """Maximum pixels of an image that is decoded."""
    max_bytes: int

    @contextmanager
    def open(self, draft: Draft) -> Iterator[ShardHook]:
        from plugins.moderation.matcher import HarmMatcher  # OpenCV takes 0.2 s to import; only workers need it

        memory = _EXTRA_BYTES + 4 * self.max_bytes + _BYTES_PER_PIXEL * self.max_image_area
        with HarmMatcher(self.lists, draft, self.max_image_area, memory) as matcher:
            yield matcher


class HashLists(FetchHook):
    """Drops known harmful images, by lists of their digests, before they are written; default off."""

    config, table = HashListsConfig, "hash_lists"
    erased_reasons = frozenset({KNOWN_HARM})
    reasons: ClassVar[Mapping[str, DropReason]] = {
        KNOWN_HARM: DropReason("A list of known harmful images names the image. The row has its uid and the list only.")
    }
    order = 10

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
        from plugins.moderation.hash_lists import put_lists

        stored = put_lists(work.draft, lists, work.made_of)
        return HarmCheck(stored, work.config.max_image_area, work.config.max_bytes)

    def finish(self, work: Any, facts: DownloadFacts) -> None:
        if matches := facts.further.get(KNOWN_HARM):
            images = format_quantity(sum(matches.values()), "image")
            lists = format_counts(matches.items())
            logger.warning("download %s: %s on lists of known harmful images (%s)", work.draft.key, images, lists)


HASH_LISTS = HashLists()
