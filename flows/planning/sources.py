"""Estimate the rows of a source before it is read, from its files and from what was extracted before."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from dataops.errors import PairmillError
from dataops.snapshot import Manifest
from dataops.storage.base import Store
from flows.planning.corpus import Prices, load_costs
from tasks.engine.context import Context
from tasks.extract.source_index import entry_name, read_indexed_record
from tasks.extract.sources.base import FilesSource, Source
from tasks.extract.sources.site import SiteSource
from tasks.files.base import SourceFile

SAMPLED_FILES = 20
"""Number of files of a list of pairs whose rows are counted."""
SAMPLED_ARCHIVES, SAMPLED_BYTES, MAX_INFLATED_BYTES = 3, 2 << 20, 64 << 20
"""Number of archives in which image links are counted, how many bytes of each, and how many when decompressed."""
_IMAGE = re.compile(rb"<img\b[^>]{0,2000}\balt=|IMG@/src", re.IGNORECASE)
WARC_PAIRS_OF_BYTE = 1 / 3000
"""Pairs per byte of a compressed WARC file, as a crawl of pages without their images has them."""
PAIRS_OF_PAGE = 10
"""Pairs of a page of a site."""
PAGE_BYTES = 50e3
"""Bytes of a page of a site, as transferred."""
ROW_BYTES = 250
"""Bytes of a row of a list of pairs in text."""


@dataclass(frozen=True)
class SourceEstimate:
    """What extract reads."""

    rows: float
    web_bytes: float
    files: int
    extracted_before: int
    """Files whose parts an earlier snapshot has."""
    new_rows: float
    """Rows of the other files."""
    basis: str
    at_most: bool = False
    """Whether there may be far fewer rows: a crawl of unknown sites ends at `max_pages` at the latest."""


@dataclass(frozen=True)
class EarlierSource:
    """What an earlier snapshot has of a source of the same kind."""

    rows: float
    files: int
    pages: int = 0
    """URLs that a crawl requested."""
    web_bytes: float = 0.0
    is_cut: bool = False
    """Whether the crawl ended because of `max_pages`."""


def estimate_sources(
    tables: Sequence[Source], store: Store, context: Context, earlier: Sequence[Manifest]
) -> SourceEstimate:
    """Return the estimate for all sources of a config.

    Args:
        earlier: earlier snapshots of extract, the nearest first.
    """
    found = [
        _estimate_source(table, store, context, next(filter(None, (_find_source(table, one) for one in earlier)), None))
        for table in tables
    ]
    return SourceEstimate(
        sum(one.rows for one in found),
        sum(one.web_bytes for one in found),
        sum(one.files for one in found),
        sum(one.extracted_before for one in found),
        sum(one.new_rows for one in found),
        ", ".join(dict.fromkeys(one.basis for one in found)),
        any(one.at_most for one in found),
    )


def _find_source(source: Source, manifest: Manifest) -> EarlierSource | None:
    """Return what an earlier snapshot has of a source of the same kind; of a crawl, only of one from the same hosts."""
    kind, whole = source.model_dump()["kind"], manifest.counts.model_dump()
    single = {**manifest.facts, "kind": manifest.config.get("kind"), "counts": whole}
    for facts in manifest.facts.get("sources") or [single]:
        rows, crawl = facts["counts"]["input"], facts.get("crawl")
        if facts["kind"] != kind or not rows:
            continue
        if isinstance(source, SiteSource):
            hosts = {urlsplit(one.key).hostname for one in manifest.inputs if one.stage == "source"}
            if not crawl or hosts.isdisjoint(source.start_hosts()):
                continue
            is_cut = crawl["asked"] >= manifest.config.get("max_pages", crawl["asked"] + 1)
            return EarlierSource(rows, 1, crawl["asked"], crawl["bytes"], is_cut)
        if facts.get("files"):
            return EarlierSource(rows, facts["files"])
    return None


def _estimate_source(source: Source, store: Store, context: Context, earlier: EarlierSource | None) -> SourceEstimate:
    if isinstance(source, SiteSource):
        return _estimate_crawl(source, earlier)
    earlier_rows_of_file = earlier.rows / earlier.files if earlier else None
    if not isinstance(source, FilesSource):
        return _estimate_archives(source.model_dump(), earlier_rows_of_file)
    files = source.files(context)
    known: list[tuple[SourceFile, int]] = []
    new: list[SourceFile] = []
    for file in files:
        record = read_indexed_record(store, entry_name(source.row_config(), file.digest(), source.label(file.name)))
        if record is None:
            new.append(file)
        else:
            known.append((file, record.counts.input))
    before = sum(rows for _, rows in known)
    rows, basis = _estimate_new(source, new, known, earlier_rows_of_file)
    return SourceEstimate(before + rows, 0.0, len(files), len(known), rows, basis)


def _estimate_archives(values: dict[str, Any], earlier: float | None) -> SourceEstimate:
    """Return the estimate of a number of archives of Common Crawl."""
    files = int(values["num_files"]) * len(values.get("crawls") or [""])
    size = files * Prices().archive_bytes
    rows = files * earlier if earlier else size * load_costs().pairs_of_archive_byte
    return SourceEstimate(rows, size, files, 0, rows, "rows of a file before" if earlier else "size of a file")


def _estimate_crawl(source: SiteSource, earlier: EarlierSource | None) -> SourceEstimate:
    """Return the estimate of a crawl: as many rows as before, or at most those of `max_pages`."""
    pages = float(source.max_pages)
    if earlier is None:
        rows = pages * PAIRS_OF_PAGE
        return SourceEstimate(rows, pages * PAGE_BYTES, 1, 0, rows, "at most source.max_pages", at_most=True)
    share = pages / earlier.pages if pages < earlier.pages or earlier.is_cut else 1.0
    rows = earlier.rows * share
    return SourceEstimate(
        rows, earlier.web_bytes * share, 1, 0, rows, "crawl before", at_most=earlier.is_cut and share > 1
    )


def _estimate_new(
    source: Source, new: Sequence[SourceFile], known: Sequence[tuple[SourceFile, int]], earlier: float | None
) -> tuple[float, str]:
    """Return the rows of files that were not extracted before, and from what they are estimated."""
    if not new:
        return 0.0, "extracted before"
    size = float(sum(file.stored_bytes() or Prices().archive_bytes for file in new))
    known_size = sum(file.stored_bytes() or 0 for file, _ in known)
    if source.model_dump()["kind"] == "pairs":
        return _count_list(new), "rows of the files"
    if known_size and sum(rows for _, rows in known):
        return size * sum(rows for _, rows in known) / known_size, "rows per byte of files extracted before"
    if earlier:
        return earlier * len(new), "rows of a file before"
    chosen = new[:: max(len(new) // SAMPLED_ARCHIVES, 1)][:SAMPLED_ARCHIVES]
    counted = [found for file in chosen if (found := _count_images(file)) is not None]
    if sum(read for _, read in counted):
        return size * sum(images for images, _ in counted) / sum(read for _, read in counted), "images in the files"
    kind = source.model_dump()["kind"]
    of_byte = load_costs().pairs_of_archive_byte if kind == "wat" else WARC_PAIRS_OF_BYTE
    return size * of_byte, "size of the files"


def _count_images(file: SourceFile) -> tuple[int, int] | None:
    """Return the image links at the beginning of an archive, and the stored bytes that have them; None on an error."""
    try:
        with file.open() as stream:
            data = stream.read(SAMPLED_BYTES)
    except (OSError, PairmillError):
        return None
    images, rest, left = 0, data, MAX_INFLATED_BYTES
    is_compressed = data[:2] == b"\x1f\x8b"
    if not is_compressed:
        return len(_IMAGE.findall(data)), len(data)
    while rest and left > 0:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            text = member.decompress(rest, left)
        except zlib.error:
            break
        images, left = images + len(_IMAGE.findall(text)), left - len(text) - 1
        if member.unconsumed_tail or not member.eof:
            rest = member.unconsumed_tail
            break
        rest = member.unused_data
    return images, max(len(data) - len(rest), 1)


def _count_list(files: Sequence[SourceFile]) -> float:
    """Return the rows of lists of pairs: exact for Parquet, by the size of the first rows else; for some of many files."""
    chosen = files[:: max(len(files) // SAMPLED_FILES, 1)][:SAMPLED_FILES]
    return sum(map(_count_rows, chosen)) / len(chosen) * len(files)


def _count_rows(file: SourceFile) -> float:
    size = float(file.stored_bytes() or 0)
    try:
        if file.name.endswith(".parquet"):
            with file.local() as path:
                return float(pq.ParquetFile(path).metadata.num_rows)
        if file.name.endswith((".gz", ".zst")):
            return size * 3 / ROW_BYTES
        with file.open() as stream:
            head = stream.read(1 << 20)
    except (OSError, ValueError, PairmillError):
        return size / ROW_BYTES
    lines = head.count(b"\n") - file.name.endswith((".csv", ".tsv"))  # their first line has the names of the columns
    return float(lines if len(head) >= size else size * lines / max(len(head), 1))
