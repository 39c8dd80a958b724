"""Small copies of a few pictures of a shard, kept and refused ones: what the report shows."""

from collections import Counter

from dataops.images.decode import ImageRefused, decode, make_preview, read_header

KEPT, PER_REASON = 12, 4
"""Pictures of a shard that are shown: kept ones, and of each class of failure."""
_MAX_AREA = 4_000_000
"""Pixels of an original that is decoded for the report."""


class Previews:
    """`seen` is called with the bytes of each picture, then `kept` or `refused`: all in one thread."""

    def __init__(self) -> None:
        self.by_uid: dict[str, bytes] = {}
        """JPEGs."""
        self._original = b""
        self._taken: Counter[str] = Counter()

    def seen(self, original: bytes) -> None:
        """The picture that is looked at now, as it was fetched."""
        self._original = original

    def kept(self, uid: str, picture: bytes) -> None:
        """What was made of it."""
        self._take(uid, "", picture)

    def refused(self, uid: str, message: str) -> None:
        """That it was refused, and why."""
        self._take(uid, message.partition(":")[0], self._original)

    def _take(self, uid: str, reason: str, data: bytes) -> None:
        self._original = b""
        if self._taken[reason] >= (PER_REASON if reason else KEPT):
            return
        try:
            read_header(data, _MAX_AREA)
            self.by_uid[uid] = make_preview(decode(data))
        except ImageRefused:  # nothing that could be shown
            return
        self._taken[reason] += 1
