"""What a task needs to compare images with the lists of known harmful images; it loads no decoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataops.snapshot import Draft
from tasks.download.harm.hash_lists import StoredHashLists

if TYPE_CHECKING:
    from tasks.download.harm.matcher import HarmMatcher

_BYTES_PER_PIXEL, _EXTRA_BYTES = 24, 256 << 20
"""Memory that decoding an image and its PDQ take at most: for each pixel, and besides."""


@dataclass(frozen=True)
class HarmCheck:
    """The lists and the limits of the decoder. It is picklable."""

    stored: StoredHashLists
    max_image_area: int
    """Maximum pixels of an image that is decoded."""
    max_bytes: int

    def open(self, draft: Draft) -> "HarmMatcher":
        """Return the matcher of a task."""
        from tasks.download.harm.matcher import HarmMatcher  # OpenCV takes 0.2 s to import; only workers need it

        memory = _EXTRA_BYTES + 4 * self.max_bytes + _BYTES_PER_PIXEL * self.max_image_area
        return HarmMatcher(self.stored, draft, self.max_image_area, memory)
