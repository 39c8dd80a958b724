"""Search one file for the traces of removed pairs, with bounded memory, whatever its format."""

from collections import Counter
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from dataops.archives.members import Damage
from dataops.archives.records import read_records
from dataops.errors import CorruptPart, SourceError
from dataops.parquet import open_parquet
from dataops.schema import MEANINGS, PERSONAL
from dataops.shards.tar import read_samples
from plugins.erasure.places import RecordKind, find_kind, is_text
from plugins.erasure.record_search import ARCHIVE, MAX_RECORD_BYTES, RecordSearch
from plugins.erasure.text_search import TextSearch, is_short, may_be_name
from plugins.erasure.traces import WHOLE_BYTES, is_in
from tasks.takedown.holders import Traces, What

Finds = Counter[What]

SAMPLES_AT_ONCE = 2000
WEIGHTS = frozenset({".safetensors", ".pt", ".pth", ".onnx", ".npy", ".npz", ".f32", ".ckpt"})
"""Suffixes of files of numbers, in which neither bytes nor text of a pair can be found."""
_CONTENT = ("url", "caption", "page_url", "preview", "captions")
_FREE_TEXT = ("error_message", "extra", "opt_out", "permissions", "final_url")
"""Columns whose values may contain a URL or a caption."""
_OWN = frozenset(MEANINGS) - PERSONAL
"""Columns of pairs that hold no text of theirs, such as the URL of a licence."""


class Scanner:
    """Searches files for some traces.

    Args:
        whole_bytes: size of a file that is searched at once; a larger one is searched in windows that overlap.
    """

    def __init__(self, traces: Traces, whole_bytes: int = WHOLE_BYTES):
        self.traces, self._whole_bytes = traces, whole_bytes
        self.text = TextSearch(traces.urls, traces.captions - traces.common, traces.images)
        self._captions = traces.captions - traces.common
        # Without uids a table is of an evaluation set, where a short caption may be the name of a class.
        self._long_captions = {caption for caption in self._captions if not is_short(caption)}
        self._names = {caption for caption in self._captions if may_be_name(caption)}

    @cached_property
    def records(self) -> RecordSearch:
        """The search of records in archives of pages."""
        return RecordSearch(self.traces.urls, self._long_captions, self.traces.images)

    def scan(self, file: BinaryIO, name: str, size: int) -> Finds:
        """Return what a file holds of the traces. A damaged file is searched as bytes.

        Args:
            name: its path; the suffix decides the format.
        """
        suffix = PurePosixPath(name).suffix
        if suffix == ".parquet":
            try:
                return self._scan_parquet(file, name)
            except CorruptPart:
                file.seek(0)
        elif suffix == ".tar":
            try:
                return self._scan_tar(file, name)
            except CorruptPart:
                file.seek(0)
        elif name.endswith(ARCHIVE):
            try:
                return self._scan_archive(file)
            except SourceError:
                file.seek(0)
        elif (kind := find_kind(name)) is not None and size <= self._whole_bytes:
            try:
                return self._scan_record(file.read(), kind)
            except ValueError:
                file.seek(0)
        return self._scan_bytes(file, name, size)

    def redact(self, data: bytes, name: str) -> bytes:
        """Return a file with what `scan` finds in the places at which it quotes pairs overwritten.

        Raises: ValueError if it is a record that is not valid.
        """
        if (kind := find_kind(name)) is not None:
            return kind.redact(data, self.text.redact_value)
        return self.text.redact(data, name) if is_text(name) else data

    def _scan_record(self, data: bytes, kind: RecordKind) -> Finds:
        finds: Finds = Counter()

        def count(value: str) -> str:
            finds.update(span.what for span in self.text.find_in_value(value))
            return value

        kind.redact(data, count)
        return finds

    def _scan_bytes(self, file: BinaryIO, name: str, size: int) -> Finds:
        finds: Finds = Counter()
        overlap = max(self.text.longest, 1 << 16)
        data = file.read(self._whole_bytes)
        if len(data) == size and self.text.is_image(data):
            finds["image"] += 1
        tail = 0  # bytes at the beginning that were searched before
        while data:
            finds.update(span.what for span in self.text.find(data, name) if span.end > tail)
            kept = data[-overlap:]
            more = file.read(self._whole_bytes)
            tail, data = len(kept), kept + more if more else b""
        return finds

    def _scan_parquet(self, file: BinaryIO, where: str) -> Finds:
        finds: Finds = Counter()
        with open_parquet(file, where) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                table = parquet.read_row_group(group)
                self._scan_rows(table, finds)
                captions = self._captions if "uid" in table.column_names else self._long_captions
                own = _OWN if "uid" in table.column_names else ()
                named = zip(table.column_names, table.columns, strict=True)
                for name, column in ((name, column) for name, column in named if name not in own):
                    self._scan_column(name, column.combine_chunks(), captions, finds)
        return +finds

    def _scan_rows(self, table: pa.Table, finds: Finds) -> None:
        """Count the rows of removed pairs that hold more than their uid."""
        if "uid" not in table.column_names or not pa.types.is_string(table.schema.field("uid").type):
            return
        rows = table.filter(pa.array(is_in(table["uid"], self.traces.uids)))
        content = [name for name in _CONTENT if name in table.column_names]
        finds["row"] += sum(any(row[name] for name in content) for row in rows.select(content).to_pylist())

    def _scan_column(self, name: str, array: Any, captions: set[str], finds: Finds) -> None:
        kind = array.type
        if pa.types.is_dictionary(kind):
            self._scan_column(name, array.dictionary, captions, finds)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._scan_column(name, array.flatten(), captions, finds)
        elif pa.types.is_struct(kind):
            for field_, child in zip(kind, array.flatten(), strict=True):
                self._scan_column(field_.name, child, captions, finds)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            finds["URL"] += int(is_in(array, self.traces.urls).sum()) if self.traces.urls else 0
            sought = captions if name == "caption" else captions - self._names
            finds["caption"] += int(is_in(array, sought).sum()) if sought else 0
            if name in _FREE_TEXT:
                joined = "\n".join(text for text in array.to_pylist() if text).encode("utf-8", "surrogatepass")
                finds.update(span.what for span in self.text.find(joined))
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            finds["image"] += sum(self.text.is_image(cell) for cell in array.to_pylist() if cell)

    def _scan_tar(self, file: BinaryIO, name: str) -> Finds:
        finds: Finds = Counter()
        texts: list[bytes] = []
        for key, members in read_samples(file, name):
            finds["row"] += key in self.traces.uids
            for extension, data in members.items():
                if extension in ("txt", "json"):
                    texts.append(data)
                else:
                    finds["image"] += self.text.is_image(data)
            if len(texts) >= SAMPLES_AT_ONCE:
                finds.update(span.what for span in self.text.find(b"\n".join(texts)))
                texts.clear()
        finds.update(span.what for span in self.text.find(b"\n".join(texts)))
        return +finds

    def _scan_archive(self, file: BinaryIO) -> Finds:
        """Count what the records of a WARC file hold, but those that cannot be read."""
        records = read_records(file, MAX_RECORD_BYTES)
        found = (self.records.find(one.head, bytes(one.body or b"")) for one in records if not isinstance(one, Damage))
        return Counter(what for kinds in found for what in kinds)


def is_weights(name: str) -> bool:
    """Return whether a file holds only numbers."""
    return PurePosixPath(name).suffix in WEIGHTS
