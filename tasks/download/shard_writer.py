"""Writes the samples of img2dataset's Downloader in the order of the rows, by uid, and its table of outcomes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from dataops.shards.tar import ShardWriter
from tasks.download.img2dataset_classes import BufferedParquetWriter
from tasks.download.outcome import parse_drop_reason
from tasks.download.resizers import Previews
from tasks.engine.task_report import report_task


class OrderedWriter:
    """Receives samples in any order and writes them in the order of the rows, by uid: equal samples give equal bytes.

    Images that arrive early are stored in a file, which may grow to the size of the tar, so that memory is bounded.

    Args:
        keys: img2dataset's keys of the rows, in their order.
        uids: uids of the rows, which name the samples in the tar.
        failures: list that gets the errors which img2dataset would print and ignore.
        previews: receives each image and each refusal.
        early_file: an empty file for images that arrive early.
        tar: an empty file for the samples. Whoever opened both files closes them, also after an error.
        shard_id, output_folder, save_caption, oom_shard_count, schema, encode_format: as img2dataset's writers get them.
    """

    def __init__(
        self,
        keys: Sequence[str],
        uids: Sequence[str],
        failures: list[OSError],
        previews: Previews,
        early_file: BinaryIO,
        tar: BinaryIO,
        shard_id: int,
        output_folder: str,
        save_caption: bool,
        oom_shard_count: int,
        schema: object,
        encode_format: str,
    ):
        path = Path(output_folder, f"{shard_id:0{oom_shard_count}d}")
        self._tar, self._format = ShardWriter(tar), encode_format
        self._table = BufferedParquetWriter(str(path.with_suffix(".parquet")), schema, 100)
        self._rows = {key: row for row, key in enumerate(keys)}
        self._uids, self._next = uids, 0
        self._early: dict[int, tuple[tuple[int, int] | None, Any, Any]] = {}
        self._failures, self._previews, self._early_file = failures, previews, early_file
        self._kept, self._dropped = 0, Counter[str]()

    def write(self, img_str: Any, key: str, caption: Any, meta: Any) -> None:
        row = self._rows[key]
        meta["key"] = self._uids[row]
        if (reason := parse_drop_reason(meta["status"], meta["error_message"])) is None:
            self._kept += 1
        else:
            self._dropped[reason] += 1
        report_task((self._kept + self._dropped.total()) / len(self._uids), self._kept, self._dropped)
        if img_str is not None:
            self._previews.add_kept(meta["key"], img_str)
        elif meta["status"] == "failed_to_resize":
            self._previews.add_refused(meta["key"], meta["error_message"])
        try:
            if row != self._next:
                self._early[row] = (self._store(img_str), caption, meta)
                return
            self._write(row, img_str, caption, meta)
            while self._next in self._early:
                self._write_early(self._next)
        except OSError as error:  # img2dataset would print and ignore it
            self._failures.append(error)
            raise

    def _write(self, row: int, img_str: Any, caption: Any, meta: Any) -> None:
        if img_str is not None:
            text = orjson.dumps(meta, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
            members = {self._format: img_str, "json": text, "txt": (caption or "").encode()}
            self._tar.write(self._uids[row], dict(sorted(members.items())))
        self._table.write(meta)
        self._next = row + 1

    def _write_early(self, row: int) -> None:
        span, caption, meta = self._early.pop(row)
        self._write(row, self._load(span), caption, meta)

    def _store(self, img_str: bytes | None) -> tuple[int, int] | None:
        """Append an image to the file, and return its offset and size."""
        if img_str is None:
            return None
        offset = self._early_file.seek(0, 2)
        self._early_file.write(img_str)
        return offset, len(img_str)

    def _load(self, span: tuple[int, int] | None) -> bytes | None:
        if span is None:
            return None
        self._early_file.seek(span[0])
        return self._early_file.read(span[1])

    def close(self) -> None:
        for row in sorted(self._early):  # rows after one that img2dataset lost
            self._write_early(row)
        self._table.close()
        self._tar.close()
