"""Writes the rows of one source file into its two parts, in bounded memory, and accounts for what could not be used."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from dataops.schema import PAIRS, dropped_schema
from dataops.snapshot import Counts, Draft, Part
from dataops.web.page_pairs import PageOrigin, PagePair
from tasks.engine.part_writer import PartWriter

DAMAGES_LISTED = 100
"""Damages of a file that are listed with their offsets; all are counted."""
_BATCH = 1 << 14  # rows that are held as Python objects


class PairsWriter:
    """Takes a file's candidates; `finish` gives its parts.

    Args:
        source: what the column of that name says.
        folder: an empty local folder for the unfinished parts.
    """

    def __init__(self, stage: str, source: str, extracted_with: str, folder: Path):
        self.stage, self.source, self.extracted_with = stage, source, extracted_with
        self.read: Counter[str] = Counter()
        """What was read, by kind: records, pages, not_html."""
        self.damages: Counter[str] = Counter()
        self.damaged: list[list[object]] = []
        """The first damages: [offset, reason]."""
        self.reasons: Counter[str] = Counter()
        # Columns, not rows: tuples by the thousand would have the garbage collector go through all objects there are.
        self._columns: tuple[list[Any], ...] = tuple([] for _ in PagePair._fields)
        self._origins: list[PageOrigin] = []
        self._lengths: list[int] = []
        self._kept = PartWriter(folder / "part.parquet", PAIRS)
        self._gone = PartWriter(folder / "dropped.parquet", dropped_schema(PAIRS))

    def add(self, origin: PageOrigin, candidates: Iterable[PagePair]) -> None:
        """The candidates of one page (or of one row of a list), in their order."""
        held = self._columns[0]
        before = len(held)
        for column, values in zip(
            self._columns, zip(*candidates, strict=True), strict=False
        ):  # no candidates, no values
            column.extend(values)
        self._origins.append(origin)
        self._lengths.append(len(held) - before)
        if len(held) >= _BATCH or len(self._origins) >= _BATCH:
            self._flush()

    def add_table(self, table: pa.Table) -> None:
        """Rows that come as a table: columns of `pairs`, without uid, source and extracted_with, and drop_reason."""
        self._flush()
        uids, digests = compute_uids(table["url"].to_pylist(), table["caption"].to_pylist())
        columns = dict(zip(table.column_names, table.columns, strict=True)) | {"uid": uids}
        self._write(self._with_constants(columns, table.num_rows), digests)

    def count(self, what: str, n: int = 1) -> None:
        """Count something that was read, for the manifest's facts."""
        self.read[what] += n

    def damage(self, offset: int, reason: str) -> None:
        """Note that the record at `offset` could not be used, or not wholly."""
        self.damages[reason] += 1
        if len(self.damaged) < DAMAGES_LISTED:
            self.damaged.append([offset, reason])

    def finish(self, draft: Draft, index: int) -> tuple[list[Part], Counts]:
        """Put both parts into the draft."""
        self._flush()
        kept = self._kept.put(draft, f"part-{index:05d}.parquet")
        gone = self._gone.put(draft, f"dropped-{index:05d}.parquet")
        counts = Counts(input=kept.rows + gone.rows, kept=kept.rows, dropped=dict(sorted(self.reasons.items())))
        return [kept, gone], counts

    def facts(self) -> dict[str, Any]:
        """What the file's record says beside its counts."""
        return {
            "file": self.source,
            "read": dict(sorted(self.read.items())),
            "damages": dict(sorted(self.damages.items())),
            "damaged": self.damaged,
        }

    def close(self) -> None:
        """Let go of the local files."""
        self._kept.close()
        self._gone.close()

    def _flush(self) -> None:
        if self._columns[0]:
            self._write(*self._table())
        self._columns = tuple([] for _ in PagePair._fields)
        self._origins, self._lengths = [], []

    def _write(self, table: pa.Table, digests: np.ndarray) -> None:
        reasons = table["drop_reason"]
        self.reasons.update({item["values"]: item["counts"] for item in reasons.drop_null().value_counts().to_pylist()})
        usable = reasons.is_null().to_numpy()
        self._kept.write(table.filter(pa.array(usable)).select(PAIRS.names), digests[usable])
        self._gone.write(table.filter(pa.array(~usable)), digests[~usable])

    def _table(self) -> tuple[pa.Table, np.ndarray]:
        """The held rows, kept and dropped, and the digests that their uids spell."""
        columns = dict(zip(PagePair._fields, self._columns, strict=True))
        pages = pa.array(np.repeat(np.arange(len(self._origins), dtype=np.int32), self._lengths))
        of_page = {
            "page_url": [origin.page_url for origin in self._origins],
            "source_offset": [origin.offset for origin in self._origins],
            "page_language": [origin.page_language for origin in self._origins],
            "page_opt_out": [origin.page_opt_out for origin in self._origins],
        }
        uids, digests = compute_uids(columns["url"], columns["caption"])
        columns["drop_reason"] = columns.pop("reason")
        types = {field.name: field.type for field in dropped_schema(PAIRS)}
        arrays = {name: pa.array(values, types[name]) for name, values in columns.items()}
        arrays |= {name: pa.array(values, types[name]).take(pages) for name, values in of_page.items()}
        return self._with_constants(arrays | {"uid": uids}, len(pages)), digests

    def _with_constants(self, columns: Mapping[str, pa.Array | pa.ChunkedArray], n: int) -> pa.Table:
        """The columns in their order, with those that are the same for all rows; nulls for what there is not."""
        constant = {"source": self.source, "extracted_with": self.extracted_with, "drop_stage": self.stage}
        arrays = []
        for field in dropped_schema(PAIRS):
            if field.name in constant:
                arrays.append(pa.repeat(pa.scalar(constant[field.name], field.type), n))
            else:
                arrays.append(columns[field.name] if field.name in columns else pa.nulls(n, field.type))
        return pa.Table.from_arrays(arrays, schema=dropped_schema(PAIRS))


def compute_uids(urls: Iterable[str], captions: Iterable[str]) -> tuple[pa.StringArray, np.ndarray]:
    """The uids of many pairs at once (dataops.schema.uid), and their digests as n x 4 big-endian 32-bit numbers."""
    digest = xxhash.xxh3_128_digest
    pairs = zip(urls, captions, strict=True)
    joined = b"".join([digest(f"{url}\0{caption}".encode("utf-8", "surrogatepass")) for url, caption in pairs])
    n = len(joined) // 16
    offsets = pa.py_buffer(np.arange(0, 32 * n + 1, 32, dtype=np.int32))
    uids = pa.StringArray.from_buffers(n, offsets, pa.py_buffer(joined.hex().encode()))
    return uids, np.frombuffer(joined, ">u4").reshape(n, 4)
