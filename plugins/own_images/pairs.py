"""`kind = "pairs"`: published lists of image URLs and captions."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from dataops.digest import canonical_json, text_sha256
from dataops.errors import PairmillError, SourceError, UnusableSource
from dataops.reasons import Reason
from plugins.own_images.lists import ColumnNames, detect_format, read_list, read_row_group_sizes
from tasks.engine.context import Context
from tasks.extract.sources.base import EarlierSource, FilesSource, Template
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.files.base import OpenFile, SourceFile
from tasks.files.find import LocalFile, find_files

SAMPLED_FILES = 20
"""Number of files whose rows are counted for an estimate."""
ROW_BYTES = 250
"""Bytes of a row in text."""
FurtherKind = Literal["keywords", "description", "alt", "title", "synthetic"]


class PairsSource(FilesSource):
    """`[source]` of `kind = "pairs"`."""

    kind: Literal["pairs"] = "pairs"
    """Parquet, CSV, TSV or JSON Lines, by the ending of the name; CSV, TSV and JSON Lines also with .gz or .zst."""
    url_column: str | int | None = None
    """Column with the image URL: its name (in any case), or its position from 0 in a CSV or TSV without a header. By
    default, the usual names of published lists are found: `url`, `image_url`, ..."""
    caption_column: str | int | None = None
    """Column with the caption: its name or position. By default, the usual names are found: `text`, `caption`,
    `alt_text`, ..."""
    extra_columns: tuple[str, ...] = ()
    """Further columns to keep, as a JSON object in the column `extra`."""
    more_captions: dict[FurtherKind, str] = Field(default={})
    """Columns with further captions of the image, by kind: `keywords`, `description`, `alt`, `title` or `synthetic` (a
    text that a model wrote). Each text, or list of words, becomes a row of its own with this `caption_source`. Set
    `filter.captions_per_image` too, to keep more than one of an image."""
    rows_per_part: PositiveInt = 2_000_000
    """Maximum rows of a part. A larger local Parquet file becomes several parts, split between its row groups."""

    order: ClassVar[int] = 4
    extracted_with: ClassVar[str] = "pairmill-pairs/2"
    offset_unit: ClassVar[str] = "row"
    template: ClassVar[Template | None] = Template(
        summary="A list of image URLs and captions becomes a dataset and a CLIP model.",
        table="""paths = {data}   # Parquet, CSV, TSV, JSON Lines; files or globs
# url_column = "image_link"    # the columns of LAION, COYO, DataComp, CC3M and img2dataset are recognised
# caption_column = "description"
# max_failed_files = 10        # files that may be unreadable; the manifest names them
""",
        data="data/*.parquet",
        question="Where is the list of image URLs and captions (a file or a glob)?",
        files=tuple(f"{folder}*.{end}" for folder in ("", "*/") for end in ("parquet", "csv", "tsv", "jsonl")),
        needs_contact=False,
    )

    def problems(self) -> list[str]:
        problems = super().problems()
        if problems:
            return problems
        for file in find_files(self.paths)[0]:
            try:
                detect_format(file.name)
            except SourceError as error:
                problems.append(f"paths: {error}")
        return problems

    def files(self, context: Context) -> Sequence[SourceFile]:
        return [part for file in super().files(context) for part in self._parts(file)]

    def _parts(self, file: SourceFile) -> Sequence[SourceFile]:
        if not isinstance(file, LocalFile) or detect_format(file.name)[0] != "parquet":
            return [file]
        try:
            sizes = read_row_group_sizes(file.path)
        except SourceError:  # a worker then fails to read it, and it counts as a failed file
            return [file]
        parts = cut_row_groups(sizes, self.rows_per_part)
        return [file] if len(parts) < 2 else [RowGroupFile(file.name, file, groups) for groups in parts]

    def estimate_new(
        self, new: Sequence[SourceFile], known: Sequence[tuple[SourceFile, int]], earlier: EarlierSource | None
    ) -> float:
        """Return the rows of the new files: exact for Parquet, else by the first rows; of many files, some are counted."""
        chosen = new[:: max(len(new) // SAMPLED_FILES, 1)][:SAMPLED_FILES]
        return sum(map(_count_rows, chosen)) / len(chosen) * len(new)

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        # Deferred: polars takes a fifth of a worker's start, and only lists need it.
        from plugins.own_images.list_rows import build_pair_table

        kinds: dict[str, str] = dict(
            sorted(self.more_captions.items())
        )  # the key does not depend on their order, nor may the rows
        columns = ColumnNames(self.url_column, self.caption_column, self.extra_columns, kinds)
        groups = file.groups if isinstance(file, RowGroupFile) else None
        with file.local() as path:
            for batch in read_list(path, columns, rows.add_damage, name=file.name, groups=groups):
                rows.count("rows", len(batch.numbers))
                table = build_pair_table(batch, self.max_caption_chars, self.max_url_chars, tuple(kinds))
                _check_urls(batch.urls, table["drop_reason"].to_pylist(), file.name)
                rows.add_table(table)


_LOCAL_NAME = re.compile(r"(?i)file:.*|(?![a-z]+://).*\.(?:jpe?g|png|webp|gif|bmp|avif|tiff?)")


def _check_urls(urls: Sequence[str | None], reasons: Sequence[str | None], file: str) -> None:
    """Raise UnusableSource if a batch of rows has names of local files in place of URLs."""
    first = urls[0] if urls else None
    if first and _LOCAL_NAME.fullmatch(first.strip()) and set(reasons) <= {Reason.BAD_URL, Reason.NOT_HTTP}:
        raise UnusableSource(
            f"{file}: its column of URLs has names of files, such as {first[:80]!r}; images of this machine are read by "
            'source.kind = "folder", with their folder as source.folder and this list as source.captions '
            "(docs/data/sources.md)"
        )


@dataclass(frozen=True)
class RowGroupFile(SourceFile):
    """Consecutive row groups of a Parquet list, read as one source file."""

    name: str
    file: LocalFile
    groups: tuple[int, ...]

    def digest(self) -> str:
        return text_sha256(canonical_json([self.file.digest(), list(self.groups)]))

    def open(self) -> OpenFile:
        return self.file.open()

    @contextmanager
    def local(self) -> Iterator[Path]:
        with self.file.local() as path:
            yield path


def cut_row_groups(sizes: Sequence[int], rows: int) -> list[tuple[int, ...]]:
    """Group consecutive row groups so that each list has at most `rows` rows; a larger row group is alone."""
    parts: list[tuple[int, ...]] = []
    part_rows = 0
    for group, size in enumerate(sizes):
        if parts and part_rows + size <= rows:
            parts[-1] = (*parts[-1], group)
            part_rows += size
        else:
            parts.append((group,))
            part_rows = size
    return parts


def _count_rows(file: SourceFile) -> float:
    size = float(file.stored_bytes() or 0)
    try:
        if file.name.endswith(".parquet"):
            with file.local() as path:
                return float(sum(read_row_group_sizes(path)))
        if file.name.endswith((".gz", ".zst")):
            return size * 3 / ROW_BYTES
        with file.open() as stream:
            head = stream.read(1 << 20)
    except (OSError, ValueError, PairmillError):
        return size / ROW_BYTES
    lines = head.count(b"\n") - file.name.endswith((".csv", ".tsv"))  # their first line has the names of the columns
    return float(lines if len(head) >= size else size * lines / max(len(head), 1))
