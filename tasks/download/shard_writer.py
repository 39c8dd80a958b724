"""Makes img2dataset's WebDataset writer deterministic: the order and the names of samples, and the bytes of the tar."""

import tarfile
from collections import Counter
from collections.abc import Sequence
from json import JSONEncoder
from typing import Any, BinaryIO

from tasks.download.img2dataset_classes import WebDatasetSampleWriter
from tasks.download.outcome import parse_drop_reason
from tasks.download.previews import Previews
from tasks.engine.task_report import report_task


class OrderedWriter(WebDatasetSampleWriter):
    """Receives samples in any order and writes them in the order of the rows, without modification times, by uid.

    Images that arrive early are stored in a file, which may grow to the size of the tar, so that memory is bounded.

    Args:
        keys: img2dataset's keys of the rows, in their order.
        uids: uids of the rows, which name the samples in the tar.
        failures: list that gets the errors which img2dataset would print and ignore.
        previews: receives each image and each refusal.
        early_file: an empty file for images that arrive early.
        args: arguments of the base class.
    """

    def __init__(
        self,
        keys: Sequence[str],
        uids: Sequence[str],
        failures: list[OSError],
        previews: Previews,
        early_file: BinaryIO,
        *args: Any,
    ):
        super().__init__(*args)
        self._headers = MemberHeaders(self.tarwriter.user, self.tarwriter.group, self.tarwriter.mode)
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
            members = {self.encode_format: img_str, "json": format_json(meta).encode(), "txt": (caption or "").encode()}
            for extension in sorted(members):
                self._write_member(f"{self._uids[row]}.{extension}", members[extension])
        self.buffered_parquet_writer.write(meta)
        self._next = row + 1

    def _write_member(self, name: str, data: bytes) -> None:
        padded = self._headers.make(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        stream: Any = self.tarwriter.tarstream
        stream.fileobj.write(padded)
        stream.offset += len(padded)

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
        super().close()


class MemberHeaders:
    """Makes the headers of files of one owner, without a modification time.

    The bytes are those of tarfile, which takes ten times as long: only name, size and checksum differ.
    """

    def __init__(self, user: str, group: str, mode: int):
        info = tarfile.TarInfo()
        info.uname, info.gname, info.mode = user, group, mode
        header = info.tobuf(tarfile.USTAR_FORMAT)
        self._owner, self._time, self._rest = header[100:124], header[136:148], header[156:]
        self._sum = sum(b" " * 8 + self._rest)

    def make(self, name: str, size: int) -> bytes:
        """Return the header of a file whose name is ASCII, of at most 100 characters, and not of a folder."""
        start = name.encode("ascii").ljust(100, b"\0") + self._owner + b"%011o\0" % size + self._time
        return start + b"%06o\0 " % (sum(start) + self._sum) + self._rest


_encode = JSONEncoder().encode


def format_json(value: Any, margin: str = "\n") -> str:
    """Return the text of `json.dumps(value, indent=4)`, which takes four times as long; the keys of objects are text.

    Args:
        margin: line break and indentation of the line on which the value begins.
    """
    if not isinstance(value, dict | list) or not value:
        return _encode(value)
    inner = margin + "    "
    if isinstance(value, list):
        return "[" + inner + f",{inner}".join(format_json(one, inner) for one in value) + margin + "]"
    items = (f"{_encode(name)}: {format_json(one, inner)}" for name, one in value.items())
    return "{" + inner + f",{inner}".join(items) + margin + "}"
