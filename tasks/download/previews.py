"""Collects small copies of a few images of a shard for the report, kept and refused ones."""

from collections import Counter
from collections.abc import Callable

from dataops.images.decode import ImageRefused, decode, make_preview, read_header

KEPT, PER_REASON = 12, 4
"""Number of previews of a shard: of kept images, and of refused ones for each failure class."""
_MAX_AREA = 4_000_000
"""Maximum pixels of an image that is decoded for a preview."""


def preview_image(data: bytes) -> bytes | None:
    """Return a small JPEG of an image, if it can be decoded and is not too large."""
    try:
        read_header(data, _MAX_AREA)
        return make_preview(decode(data))
    except ImageRefused:
        return None


class Previews:
    """The previews of a shard. For each image, one thread calls `set_original`, then `add_kept` or `add_refused`.

    Args:
        preview: returns a small JPEG of an image, or None.
    """

    def __init__(self, preview: Callable[[bytes], bytes | None] = preview_image) -> None:
        self._preview = preview
        self.by_uid: dict[str, bytes] = {}
        """JPEGs."""
        self._original = b""
        self._numbers: Counter[str] = Counter()

    def set_original(self, original: bytes) -> None:
        """Store the bytes of the image that is processed next, as fetched."""
        self._original = original

    def add_kept(self, uid: str, image: bytes) -> None:
        """Add a preview of a resized image."""
        self._add(uid, "", image)

    def add_refused(self, uid: str, message: str) -> None:
        """Add a preview of the original that was refused with a message."""
        self._add(uid, message.partition(":")[0], self._original)

    def _add(self, uid: str, reason: str, data: bytes) -> None:
        self._original = b""
        if self._numbers[reason] >= (PER_REASON if reason else KEPT):
            return
        if preview := self._preview(data):
            self.by_uid[uid] = preview
            self._numbers[reason] += 1
