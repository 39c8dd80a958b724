"""Reads published pair lists (Parquet, CSV, TSV and JSON Lines) as a stream of batches.

The columns are found by the config or by the names that published lists use. A row that cannot be read is reported with its
number and skipped; a file that cannot be read raises SourceError. Row numbers start at 0 and do not count the header: rows
of Parquet, records of CSV and TSV, lines of JSON Lines.
"""

import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataops.errors import ConfigError, UnusableSource
from dataops.regular_files import check_regular
from plugins.own_images.parquet_batches import BATCH_BYTES, iter_batches
from plugins.own_images.text_records import ReportBadRow, json_lines, parse_records, read_objects

URL_NAMES = ("url", "image_url", "img_url", "imageurl", "image url")
CAPTION_NAMES = ("text", "caption", "alt_text", "alt", "alt text")
PAGE_NAMES = ("page_url", "pageurl", "page url")

_URL_STARTS = ("http://", "https://")


@dataclass(frozen=True)
class ColumnNames:
    """The columns that the config names; None for a column to find by its usual names.

    Attributes:
        url: name, or position from 0 in a list without a header.
        caption: name, or position from 0 in a list without a header.
        extra: names of further columns to keep.
        more: names of the columns with further captions, by their caption_source.
    """

    url: str | int | None = None
    caption: str | int | None = None
    extra: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """The positions of the columns in a list, and whether its first row is a header."""

    url: int
    caption: int
    page: int | None
    extra: tuple[int, ...]
    width: int
    has_header: bool = True
    more: tuple[int, ...] = ()
    """In the order of ColumnNames.more."""


def find_columns(names: Sequence[str], configured: ColumnNames, file: str) -> Columns:
    """Return the positions of the columns of a list with column names.

    Source: the data cards of LAION-400M (URL, TEXT), COYO-700M and DataComp (url, text), and img2dataset's output
    (url, caption).

    Raises: ConfigError that lists the columns and names the config key to set.
    """
    needed = (("url_column", configured.url, URL_NAMES), ("caption_column", configured.caption, CAPTION_NAMES))
    url, caption = _find(names, needed, file)
    if url == caption:
        raise ConfigError(f"{file}: source.url_column and source.caption_column are both {names[url]!r}")
    extra = _find(names, [("extra_columns", name, ()) for name in configured.extra], file)
    more = _find(names, [(f"more_captions.{kind}", name, ()) for kind, name in configured.more.items()], file)
    lower = [name.strip().lower() for name in names]
    pages = [lower.index(name) for name in PAGE_NAMES if lower.count(name) == 1]
    return Columns(url, caption, pages[0] if len(pages) == 1 else None, extra, len(names), more=more)


def find_columns_in_first_row(row: Sequence[str], configured: ColumnNames, file: str) -> Columns:
    """Return the positions of the columns of a CSV or TSV file, whose first row may be a header or a pair.

    The first row is a pair if one of its fields is a URL, as in CC12M (url, caption) and CC3M (caption, url).

    Raises: ConfigError that lists the fields and names the config keys to set.
    """
    url_positions = [i for i, field in enumerate(row) if field.strip().lower().startswith(_URL_STARTS)]
    if not url_positions:
        url_name, caption_name = _name_at(row, configured.url), _name_at(row, configured.caption)
        names = ColumnNames(url_name, caption_name, configured.extra, configured.more)
        return find_columns(row, names, file)
    if configured.extra or configured.more or isinstance(configured.url, str) or isinstance(configured.caption, str):
        raise ConfigError(
            f"{file}: has no header (its first row is {quote(row)}), so no column has a name; "
            "set source.url_column and source.caption_column to positions, counted from 0, and no source.extra_columns or "
            "source.more_captions"
        )
    url, caption = configured.url, configured.caption
    if url is None and len(url_positions) == 1:
        url = url_positions[0]
    if caption is None and url is not None and len(row) == 2:
        caption = 1 - url
    if url is None or caption is None or url == caption or max(url, caption) >= len(row):
        raise ConfigError(
            f"{file}: has no header, and the columns of URL and caption are not clear from its first row {quote(row)}; "
            "set source.url_column and source.caption_column to their positions, counted from 0"
        )
    return Columns(url, caption, None, (), len(row), has_header=False)


def _find(
    names: Sequence[str], needed: Sequence[tuple[str, str | int | None, Sequence[str]]], file: str
) -> tuple[int, ...]:
    """Return the position of each column.

    Args:
        needed: for each column its config key, the configured name, and the usual names.

    Raises: ConfigError that names the keys of all columns that were not found.
    """
    found = [_match(names, configured, usual) for _, configured, usual in needed]
    keys = [key for (key, _, _), where in zip(needed, found, strict=True) if isinstance(where, str)]
    problems = [where for where in found if isinstance(where, str)]
    if problems:
        to_set = " and ".join(f"source.{key}" for key in dict.fromkeys(keys))
        if any(re.search(r"(?i)file_?(?:name|path)|^path$|\.(?:jpe?g|png|webp|gif)$", name.strip()) for name in names):
            to_set += '; images of this machine are read by source.kind = "folder"'
        raise ConfigError(f"{file}: {'; '.join(problems)}; its columns: {quote(names)}. Choose from them with {to_set}")
    return tuple(where for where in found if isinstance(where, int))


def _match(names: Sequence[str], configured: str | int | None, usual: Sequence[str]) -> int | str:
    """Return the position of a column, or why it is not clear."""
    if isinstance(configured, int):
        return f"{configured} is a position, but the columns have names"
    if configured is not None:
        found = [i for i, name in enumerate(names) if name == configured]
        found = found or [i for i, name in enumerate(names) if name.strip().lower() == configured.strip().lower()]
        what = repr(configured)
    else:
        found = [i for i, name in enumerate(names) if name.strip().lower() in usual]
        what = f"named {', '.join(usual)}"
    if len(found) == 1:
        return found[0]
    return f"{'several columns' if found else 'no column'} {what}"


def _name_at(row: Sequence[str], column: str | int | None) -> str | None:
    """Return the name of a column that is given by name or by position; None for a position beyond the row."""
    if isinstance(column, int):
        return row[column] if column < len(row) else None
    return column


def quote(fields: Sequence[str]) -> str:
    """Return the names of columns, or the fields of a row, for an error."""
    return ", ".join(repr(field[:60]) for field in fields[:40]) or "none"


BATCH_ROWS = 50_000
Format = Literal["parquet", "csv", "tsv", "jsonl"]
_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass
class RawRows:
    """Rows as they are in the file; all columns have the same length."""

    numbers: list[int] = field(default_factory=list)
    urls: list[str | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    pages: list[str | None] = field(default_factory=list)
    extras: list[str | None] = field(default_factory=list)
    """The extra columns of a row as a JSON object; None if there are none."""
    more: list[list[str | None]] = field(default_factory=list)
    """Further captions of a row, in the order of the configured columns; empty if there are no such columns."""

    def add(
        self,
        number: int,
        url: str | None,
        caption: str | None,
        page: str | None,
        extra: str | None,
        more: list[str | None] | None = None,
    ) -> None:
        """Append a row."""
        if more:
            self.more.append(more)
        self.numbers.append(number)
        self.urls.append(url)
        self.captions.append(caption)
        self.pages.append(page)
        self.extras.append(extra)


def detect_format(name: str) -> tuple[Format, str | None]:
    """Return format and compression (gzip, zstd) of a list by its name. Raises: SourceError for an unknown ending."""
    path = Path(name.lower())
    compression = _COMPRESSIONS.get(path.suffix)
    kind = _SUFFIXES.get(Path(path.stem).suffix if compression else path.suffix)
    if kind is None or (kind == "parquet" and compression):
        raise UnusableSource(
            f"{name}: no pair list by its ending; known are {', '.join(_SUFFIXES)}; all but Parquet also with .gz or .zst"
        )
    return kind, compression


def read_row_group_sizes(path: Path) -> list[int]:
    """Return the number of rows in each row group of a Parquet list. Raises: SourceError if it cannot be read."""
    with naming_file(path, str(path)), pq.ParquetFile(path) as file:
        return [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]


def read_list(
    path: Path,
    configured: ColumnNames,
    report: ReportBadRow,
    *,
    name: str | None = None,
    groups: Sequence[int] | None = None,
) -> Iterator[RawRows]:
    """Yield the rows of a list in batches of at most BATCH_ROWS and BATCH_BYTES; memory does not grow with the file.

    Args:
        configured: columns that the config names; the others are found by their usual names.
        report: called for rows that cannot be read, with a reason: `wrong_fields`, `bad_quotes`, `field_too_long`,
            `line_too_long`, `not_utf8`, `bad_json`, `not_an_object`, `url_not_text`, `caption_not_text`.
        name: file name that determines the format and appears in errors; that of `path` if None.
        groups: row groups of a Parquet list to read; all if None.

    Raises: ConfigError if the columns are not found; SourceError if the file cannot be read.
    """
    name = name or path.name
    kind, compression = detect_format(name)
    with naming_file(path, name):
        if kind == "parquet":
            rows = _read_parquet(path, configured, report, name, groups)
        else:
            rows = _read_text(path, kind, compression, configured, report, name)
        for batch in rows:
            yield _drop_undecodable(batch, report)


@contextmanager
def naming_file(path: Path, name: str) -> Iterator[None]:
    """Name the file in what is raised for one that is no regular file or cannot be read. Raises: UnusableSource."""
    try:
        check_regular(path)
        yield
    except (OSError, EOFError, OverflowError, zlib.error, UnicodeDecodeError, pa.ArrowException) as error:
        why = str(error).replace("\n", " ")[:300] or type(error).__name__
        raise UnusableSource(f"{name}: cannot be read ({why}); write it again, or remove it from the source") from error


@contextmanager
def open_text(path: Path, compression: str | None) -> Iterator[BinaryIO]:
    """Open a list that is no Parquet, as the stream that `parse_records` and `json_lines` read."""
    with pa.input_stream(str(path), compression=compression, buffer_size=1 << 20) as stream:
        yield io.BufferedReader(cast("Any", stream), 1 << 20)


def _read_text(
    path: Path, kind: Format, compression: str | None, configured: ColumnNames, report: ReportBadRow, name: str
) -> Iterator[RawRows]:
    with open_text(path, compression) as binary:
        if kind == "jsonl":
            rows = _read_jsonl(binary, configured, report, name)
        else:
            rows = _read_delimited(binary, "\t" if kind == "tsv" else ",", configured, report, name)
        batch, chars = RawRows(), 0
        for row in rows:
            batch.add(*row)
            chars += sum([len(text) for text in (*row[1:5], *row[5]) if text])
            if len(batch.numbers) == BATCH_ROWS or chars > BATCH_BYTES:
                yield batch
                batch, chars = RawRows(), 0
        yield batch


_Row = tuple[int, str | None, str | None, str | None, str | None, list[str | None]]


def _read_delimited(
    stream: BinaryIO, delimiter: str, configured: ColumnNames, report: ReportBadRow, name: str
) -> Iterator[_Row]:
    columns, extra_names, number = None, (), 0
    for fields in parse_records(stream, delimiter):
        if isinstance(fields, str):
            report(number, fields)
        elif columns is None:
            columns = find_columns_in_first_row(fields, configured, name)
            if columns.has_header:
                extra_names = tuple(fields[i] for i in columns.extra)
                continue
            yield number, fields[columns.url], fields[columns.caption], None, None, []
        elif len(fields) != columns.width:
            report(number, "wrong_fields")
        else:
            page = None if columns.page is None else fields[columns.page]
            extra = {key: fields[i] for key, i in zip(extra_names, columns.extra, strict=True)}
            texts = fields[columns.url], fields[columns.caption], page
            more: list[str | None] = [fields[i] for i in columns.more]
            yield number, *texts, _dump_json(extra) if extra else None, more
        number += 1
    if columns is None:
        raise UnusableSource(f"{name}: contains no row")


def _read_jsonl(stream: BinaryIO, configured: ColumnNames, report: ReportBadRow, name: str) -> Iterator[_Row]:
    """Yield the rows of JSON Lines; the keys of the first objects determine the columns."""
    keys, objects = read_objects(json_lines(stream), report)
    columns = None
    for number, value in objects:
        columns = columns or find_columns(keys, configured, name)
        texts = _pick_texts(value, keys, columns)
        if isinstance(texts, str):
            report(number, texts)
            continue
        extra = {keys[i]: value.get(keys[i]) for i in columns.extra}
        more = [_join_words(value.get(keys[i])) for i in columns.more]
        yield number, *texts, _dump_json(extra) if extra else None, more
    if columns is None:
        raise UnusableSource(f"{name}: contains no JSON object")


def _pick_texts(value: Mapping[str, object], keys: Sequence[str], columns: Columns) -> Any:
    url, caption = value.get(keys[columns.url]), value.get(keys[columns.caption])
    page = None if columns.page is None else value.get(keys[columns.page])
    if not isinstance(url, str | None):
        return "url_not_text"
    if not isinstance(caption, str | None):
        return "caption_not_text"
    return url, caption, page if isinstance(page, str) else None


def _read_parquet(
    path: Path, configured: ColumnNames, report: ReportBadRow, name: str, groups: Sequence[int] | None
) -> Iterator[RawRows]:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        schema = file.schema_arrow
        columns = find_columns(schema.names, configured, name)
        if columns.page is not None and not _is_readable(schema.field(columns.page).type):
            columns = replace(columns, page=None)
        page = [] if columns.page is None else [columns.page]
        for i in (columns.url, columns.caption):
            _check_text(schema.field(i), schema, name)
        for i in columns.more:
            field, kind = schema.field(i), schema.field(i).type
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            _check_text(pa.field(field.name, kind.value_type) if is_list else field, schema, name)
        needed = dict.fromkeys((columns.url, columns.caption, *page, *columns.extra, *columns.more))
        names = [schema.names[i] for i in needed]
    for number, batch in iter_batches(path, names, BATCH_ROWS, groups):
        yield _parquet_rows(batch, schema, columns, number, report)


def _parquet_rows(
    batch: pa.RecordBatch, schema: pa.Schema, columns: Columns, start: int, report: ReportBadRow
) -> RawRows:
    count = batch.num_rows
    names = schema.names

    def text(i: int) -> list[str | None]:
        return _decode_texts(batch[names[i]])

    extras: list[str | None] = [None] * count
    if columns.extra:
        extras = [_dump_json(row) for row in batch.select([names[i] for i in dict.fromkeys(columns.extra)]).to_pylist()]
    pages = [None] * count if columns.page is None else text(columns.page)
    more = [list(map(_join_words, batch[names[i]].to_pylist())) for i in columns.more]
    numbers, by_row = list(range(start, start + count)), list(map(list, zip(*more, strict=True)))
    return RawRows(numbers, text(columns.url), text(columns.caption), pages, extras, by_row)


def _check_text(field: pa.Field, schema: pa.Schema, name: str) -> None:
    if not _is_readable(field.type):
        listed = ", ".join(f"{f.name} {f.type}" for f in schema)
        raise UnusableSource(
            f"{name}: column {field.name!r} has the type {field.type}, not text; its columns: {listed}"
        )


def _is_readable(kind: pa.DataType) -> bool:
    return is_text(kind) or is_binary(kind)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds texts: also categories, and a column without any value."""
    if pa.types.is_dictionary(kind):
        return _is_readable(kind.value_type)
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def has_text(kind: pa.DataType) -> bool:
    """Return whether a column holds texts, or lists of texts."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_text(kind.value_type if is_list else kind)


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes of any length."""
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _decode_texts(column: pa.Array) -> list[str | None]:
    """Return the texts of a column; bytes that are not text become lone surrogates."""
    if pa.types.is_dictionary(column.type):
        column = cast("pa.DictionaryArray", column).dictionary_decode()
    column = pc.cast(column, pa.large_binary())
    try:
        return pc.cast(column, pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        return [None if v is None else v.decode("utf-8", "surrogateescape") for v in column.to_pylist()]


def _drop_undecodable(rows: RawRows, report: ReportBadRow) -> RawRows:
    """Return the rows whose URL and caption are valid text, and report the others as `not_utf8`."""
    try:
        "".join(text for text in (*rows.urls, *rows.captions, *rows.pages) if text).encode()
    except UnicodeEncodeError:
        pass
    else:
        return rows
    kept = RawRows()
    more = rows.more or [[] for _ in rows.numbers]
    for number, url, caption, page, extra, further in zip(
        rows.numbers, rows.urls, rows.captions, rows.pages, rows.extras, more, strict=True
    ):
        if _is_text(url) and _is_text(caption):
            kept.add(number, url, caption, page if _is_text(page) else None, extra, further)
        else:
            report(number, "not_utf8")
    return kept


def _is_text(value: str | None) -> bool:
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _join_words(value: object) -> str | None:
    """Return a further caption: a text, or a list of texts joined by commas; None for anything else."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, list):
        words = [word.strip() for word in value if isinstance(word, str) and word.strip()]
        value = ", ".join(words) or None
    return value if isinstance(value, str) and _is_text(value) else None


def _dump_json(values: Mapping[str, object]) -> str:
    """Return extra columns as a JSON object; numbers stay numbers, and types unknown to JSON become text."""
    try:
        return orjson.dumps(values, default=_as_text).decode()
    except orjson.JSONEncodeError:  # lone surrogates, integers beyond 64 bits
        return orjson.dumps({k: _as_text(v) for k, v in values.items()}).decode()


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode()
