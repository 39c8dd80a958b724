"""`kind = "pairs"`: lists of addresses and captions that others published."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from dataops.digest import canonical_json, text_sha256
from dataops.errors import SourceError
from dataops.pair_lists.columns import ColumnNames
from dataops.pair_lists.reader import detect_format, read_list, read_row_group_sizes
from tasks.engine.context import Context
from tasks.extract.sources.pairs_writer import PairsWriter
from tasks.extract.sources.warc import FilesSource
from tasks.files.base import OpenFile, SourceFile
from tasks.files.find import LocalFile, find_files


class PairsSource(FilesSource):
    """`[source]` of `kind = "pairs"`."""

    kind: Literal["pairs"] = "pairs"
    """Parquet, CSV, TSV or JSON Lines, by the ending of the name; CSV, TSV and JSON Lines also .gz and .zst."""
    url_column: str | int | None = None
    """Column with the picture's address: its name (case does not matter), or its position from 0 in a CSV or TSV without
    a header. Without it, what published lists use is recognised: `url`, `image_url`, ..."""
    caption_column: str | int | None = None
    """Column with the caption, likewise: `text`, `caption`, `alt_text`, ..."""
    extra_columns: tuple[str, ...] = ()
    """Further columns to carry, as a JSON object in the column `extra`."""
    rows_per_part: int = Field(default=2_000_000, ge=1)
    """A local Parquet file of more rows is read in several parts, cut between its row groups."""

    extracted_with: ClassVar[str] = "pairmill-pairs/1"

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
        except SourceError:  # it is the worker's to fail on it: then it counts as a failed file
            return [file]
        cuts = cut_row_groups(sizes, self.rows_per_part)
        return [file] if len(cuts) < 2 else [RowGroupFile(file.name, file, groups) for groups in cuts]

    def read(self, file: SourceFile, rows: PairsWriter) -> None:
        asked = ColumnNames(self.url_column, self.caption_column, self.extra_columns)
        groups = file.groups if isinstance(file, RowGroupFile) else None
        from dataops.pair_lists.rows import (
            build_pair_table,  # polars: a fifth of a worker's start, which only lists need
        )

        with file.local() as path:
            for batch in read_list(path, asked, rows.damage, name=file.name, groups=groups):
                rows.count("rows", len(batch.numbers))
                rows.add_table(build_pair_table(batch, self.max_caption_chars, self.max_url_chars))


@dataclass(frozen=True)
class RowGroupFile(SourceFile):
    """Some row groups of a Parquet list."""

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
    """Neighbouring row groups together while they hold at most `rows` rows; a larger group stands alone."""
    cuts: list[tuple[int, ...]] = []
    held = 0
    for group, size in enumerate(sizes):
        if cuts and held + size <= rows:
            cuts[-1] = (*cuts[-1], group)
            held += size
        else:
            cuts.append((group,))
            held = size
    return cuts
