"""img2dataset's WebDataset writer, made certain: the order of samples, the bytes of the tar, and keys that are uids."""

from collections.abc import Sequence
from typing import Any, BinaryIO

from tasks.download.img2dataset_classes import WebDatasetSampleWriter
from tasks.download.previews import Previews


class OrderedWriter(WebDatasetSampleWriter):
    """Gets samples as they arrive and writes them in the order of the rows, without clocks, under their uids.

    The pictures of samples that came early wait in a file, which may grow to the size of the tar, so memory does not.

    Args:
        keys: img2dataset's keys, made of the row's place in the shard, in the order of the rows.
        uids: the rows', under which the samples are written.
        failures: gets the errors that img2dataset would print and forget.
        previews: told what became of each picture.
        waiting: an empty file for the pictures that came early.
        args: the writer's own.
    """

    def __init__(
        self,
        keys: Sequence[str],
        uids: Sequence[str],
        failures: list[OSError],
        previews: Previews,
        waiting: BinaryIO,
        *args: Any,
    ):
        super().__init__(*args)
        self.tarwriter.mtime = 0
        self._places = {key: place for place, key in enumerate(keys)}
        self._uids, self._next = uids, 0
        self._early: dict[int, tuple[tuple[int, int] | None, Any, Any]] = {}
        self._failures, self._previews, self._waiting = failures, previews, waiting

    def write(self, img_str: Any, key: str, caption: Any, meta: Any) -> None:
        place = self._places[key]
        meta["key"] = self._uids[place]
        if img_str is not None:
            self._previews.kept(meta["key"], img_str)
        elif meta["status"] == "failed_to_resize":
            self._previews.refused(meta["key"], meta["error_message"])
        try:
            if place != self._next:
                self._early[place] = (self._put(img_str), caption, meta)
                return
            self._write(place, img_str, caption, meta)
            while self._next in self._early:
                self._write_early(self._next)
        except OSError as error:  # img2dataset would print it and go on
            self._failures.append(error)
            raise

    def _write(self, place: int, img_str: Any, caption: Any, meta: Any) -> None:
        super().write(img_str, self._uids[place], caption, meta)
        self._next = place + 1

    def _write_early(self, place: int) -> None:
        where, caption, meta = self._early.pop(place)
        self._write(place, self._get(where), caption, meta)

    def _put(self, img_str: bytes | None) -> tuple[int, int] | None:
        if img_str is None:
            return None
        at = self._waiting.seek(0, 2)
        self._waiting.write(img_str)
        return at, len(img_str)

    def _get(self, where: tuple[int, int] | None) -> bytes | None:
        if where is None:
            return None
        self._waiting.seek(where[0])
        return self._waiting.read(where[1])

    def close(self) -> None:
        for place in sorted(self._early):  # those behind a lost one
            self._write_early(place)
        super().close()
