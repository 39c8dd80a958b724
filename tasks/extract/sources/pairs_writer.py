"""Writes the rows of one source file into a kept and a dropped part, in bounded memory, and counts damages."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dataops.facts import ExtractedFile
from dataops.schema import PAIRS, dropped_schema
from dataops.snapshot import Counts, Draft, Part
from dataops.web.page_pairs import PageOrigin, PagePair
from tasks.engine.map_progress import report_task
from tasks.engine.part_writer import PartWriter

DAMAGES_LISTED = 100
"""Maximum number of damages of a file that are listed with their offsets; all are counted."""
_ADDED = pa.schema([
    *(field for field in PAIRS if field.name not in ("uid", "source", "extracted_with")),
    pa.field("drop_reason", pa.string()),
])  # fmt: skip
_ORIGIN_FIELDS = attrgetter("page_url", "offset", "page_language", "page_opt_out")
_PAGE_COLUMNS = ("page_url", "source_offset", "page_language", "page_opt_out")
_BATCH = 1 << 14  # rows that are kept as Python objects


class PairsWriter:
    """Collects the pairs of a source file; `finish` puts its parts into the draft.

    Args:
        stage: value of the column `drop_stage`.
        source: value of the column `source`.
        extracted_with: value of the column `extracted_with`.
        folder: empty local folder for the unfinished parts.
        size: size of the file in bytes, for the progress; None if it is not known.
        license_: value of the column `license` where a row has none.
    """

    def __init__(
        self,
        stage: str,
        source: str,
        extracted_with: str,
        folder: Path,
        size: int | None = None,
        license_: str | None = None,
    ):
        self._license = license_
        self.stage, self.source, self.extracted_with, self._size = stage, source, extracted_with, size
        self.read: Counter[str] = Counter()
        """Number of items read by kind: records, pages, not_html, ..."""
        self.damages: Counter[str] = Counter()
        """Number of damages by reason."""
        self.damaged: list[tuple[int, str]] = []
        """The first DAMAGES_LISTED damages: [offset, reason]."""
        self.reasons: Counter[str] = Counter()
        """Number of dropped rows by drop reason."""
        # Columns, not rows: thousands of tuples would trigger full passes of the garbage collector.
        self._columns: tuple[list[Any], ...] = tuple([] for _ in PagePair._fields)
        self._kept_rows = 0
        self._origins: list[PageOrigin] = []
        self._lengths: list[int] = []
        self._kept = PartWriter(folder / "part.parquet", PAIRS)
        self._dropped = PartWriter(folder / "dropped.parquet", dropped_schema(PAIRS))

    def add(self, origin: PageOrigin, pairs: Iterable[PagePair]) -> None:
        """Add the pairs of one page in their order."""
        urls = self._columns[0]
        before = len(urls)
        # Not strict: without pairs, the inner zip yields nothing.
        for column, values in zip(self._columns, zip(*pairs, strict=True), strict=False):
            column.extend(values)
        self._origins.append(origin)
        self._lengths.append(len(urls) - before)
        self._report([origin])
        if len(urls) >= _BATCH or len(self._origins) >= _BATCH:
            self._flush()

    def add_table(self, table: pa.Table, origins: Sequence[PageOrigin] = ()) -> None:
        """Add a table with drop_reason and the columns of `pairs` except uid, source and extracted_with.

        Args:
            origins: the pages of the rows. With them, `page` is the index of each row's page, and has the others' place.
        """
        self._flush()
        self._write(table, origins)
        self._report(origins)

    def add_rows(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add rows that have at least `url`, `caption` and `caption_source`; columns of `pairs` that one lacks are null."""
        self.add_table(pa.Table.from_pylist([*rows], _ADDED))

    def count(self, kind: str, n: int = 1) -> None:
        """Count items that were read, for the manifest's facts."""
        self.read[kind] += n

    def add_damage(self, offset: int, reason: str) -> None:
        """Report that the record at `offset` could not be used completely."""
        self.damages[reason] += 1
        if len(self.damaged) < DAMAGES_LISTED:
            self.damaged.append((offset, reason))

    def finish(self, draft: Draft, index: int) -> tuple[list[Part], Counts]:
        """Put both parts into the draft, and return them with their counts."""
        self._flush()
        kept_part = self._kept.put(draft, f"part-{index:05d}.parquet")
        dropped_part = self._dropped.put(draft, f"dropped-{index:05d}.parquet")
        rows = kept_part.rows + dropped_part.rows
        counts = Counts(input=rows, kept=kept_part.rows, dropped=dict(sorted(self.reasons.items())))
        return [kept_part, dropped_part], counts

    def facts(self) -> ExtractedFile:
        """Return the facts of the file's record."""
        return ExtractedFile(
            file=self.source,
            read=dict(sorted(self.read.items())),
            damages=dict(sorted(self.damages.items())),
            damaged=self.damaged,
        )

    def close(self) -> None:
        """Close the local files."""
        self._kept.close()
        self._dropped.close()

    def _report(self, origins: Sequence[PageOrigin]) -> None:
        """Report the share of the file that was read, and the rows that were written."""
        share = (origins[-1].offset or 0) / self._size if origins and self._size else 0.0
        report_task(min(share, 1.0), self._kept_rows, self.reasons)

    def _flush(self) -> None:
        if self._columns[0]:
            columns = dict(zip(PagePair._fields, self._columns, strict=True))
            columns["drop_reason"] = columns.pop("reason")
            types = {field.name: field.type for field in _ADDED}
            arrays = {name: pa.array(values, types[name]) for name, values in columns.items()}
            page = pa.array(np.repeat(np.arange(len(self._origins), dtype=np.int32), self._lengths))
            self._write(pa.table(arrays | {"page": page}), self._origins)
        self._columns = tuple([] for _ in PagePair._fields)
        self._origins, self._lengths = [], []

    def _write(self, rows: pa.Table, origins: Sequence[PageOrigin]) -> None:
        """Write rows to the parts that they belong to; see add_table."""
        uids, digests = compute_uids(rows["url"], rows["caption"])
        rows = rows.append_column("uid", uids)
        types = ((name, PAIRS.field(name).type) for name in _PAGE_COLUMNS)
        values = zip(*map(_ORIGIN_FIELDS, origins), strict=True)
        pages = {name: pa.array(column, type_) for (name, type_), column in zip(types, values, strict=False)}
        reasons = rows["drop_reason"]
        self.reasons.update({item["values"]: item["counts"] for item in reasons.drop_null().value_counts().to_pylist()})
        is_kept = reasons.is_null().to_numpy()
        self._kept_rows += int(is_kept.sum())
        for part, chosen in ((self._kept, is_kept), (self._dropped, ~is_kept)):
            # before the other columns are added, which have the most bytes
            of_part = rows.filter(pa.array(chosen))
            columns = dict(zip(of_part.column_names, of_part.columns, strict=True))
            columns |= {name: column.take(columns["page"]) for name, column in pages.items()}
            part.write(self._with_constants(columns, part.schema, of_part.num_rows), digests[chosen])

    def _with_constants(self, columns: Mapping[str, pa.ChunkedArray], schema: pa.Schema, n: int) -> pa.Table:
        """Return a table with all columns in their order: constants are added, and missing columns are null."""
        constant = {"source": self.source, "extracted_with": self.extracted_with, "drop_stage": self.stage}
        filled = {name: pa.repeat(value, n) for name, value in constant.items()}
        known = {"license": pa.nulls(n, pa.string()), **columns, **filled}
        if self._license is not None:
            known["license"] = pc.fill_null(known["license"], self._license)
        arrays = [known[field.name] if field.name in known else pa.nulls(n, field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)


def compute_uids(urls: pa.ChunkedArray, captions: pa.ChunkedArray) -> tuple[pa.StringArray, np.ndarray]:
    """Return the uids of n pairs (dataops.schema.uid), and their digests as n x 4 big-endian 32-bit integers."""
    texts = pc.binary_join_element_wise(urls, captions, "\0")  # pyright: ignore[reportAttributeAccessIssue]
    digests = b"".join(map(xxhash.xxh3_128_digest, texts.cast(pa.binary()).to_pylist()))
    n = len(digests) // 16
    offsets = pa.py_buffer(np.arange(0, 32 * n + 1, 32, dtype=np.int32))
    uids = pa.StringArray.from_buffers(n, offsets, pa.py_buffer(digests.hex().encode()))
    return uids, np.frombuffer(digests, ">u4").reshape(n, 4)
