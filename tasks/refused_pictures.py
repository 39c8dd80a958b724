"""Small copies of a few pictures of a shard that were fetched and refused: what the report shows of them."""

from collections import Counter

from dataops.images import ImageRefused, decode, preview, read_header

PER_REASON = 3
_MAX_AREA = 4_000_000
"""Pixels of an original that is decoded for the report."""


class RefusedPictures:
    """`seen` is called with the bytes of each picture, then `name` for one that was refused: both in one thread."""

    def __init__(self) -> None:
        self.previews: dict[str, bytes] = {}
        """By uid: JPEG."""
        self._data = b""
        self._taken: Counter[str] = Counter()

    def seen(self, data: bytes) -> None:
        """The picture that is looked at now."""
        self._data = data

    def name(self, uid: str, message: str) -> None:
        """Whose the last one was, and why it was refused."""
        reason, data = message.partition(":")[0], self._data
        self._data = b""
        if self._taken[reason] >= PER_REASON:
            return
        try:
            read_header(data, _MAX_AREA)
            self.previews[uid] = preview(decode(data))
        except ImageRefused:  # nothing that could be shown
            return
        self._taken[reason] += 1
