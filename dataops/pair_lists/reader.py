"""Pair lists that others published: Parquet, CSV, TSV and JSON Lines, read as a stream of batches.

A row that cannot be read is noted with its number and costs nothing else; a file that cannot be read is a SourceError.
Rows are numbered from 0, without the header: a Parquet file's rows, the records of CSV and TSV, the lines of JSON Lines.
"""

import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataops.errors import SourceError
from dataops.pair_lists.columns import ColumnNames, Columns, find_columns, find_columns_in_first_row
from dataops.pair_lists.delimited import decode_stream, parse_records

BATCH_ROWS = 50_000
MAX_JSON_LINE = 1 << 22
"""Longer lines of JSON are skipped as bad rows."""

Format = Literal["parquet", "csv", "tsv", "jsonl"]
Note = Callable[[int, str], None]
"""Called with the number of a row that cannot be read, and why."""

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
    """Rows as the list has them; all its lists are of one length."""

    numbers: list[int] = field(default_factory=list)
    urls: list[str | None] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    pages: list[str | None] = field(default_factory=list)
    extras: list[str | None] = field(default_factory=list)
    """Each a JSON object, or None where no further columns are carried."""

    def add(self, number: int, url: str | None, caption: str | None, page: str | None, extra: str | None) -> None:
        """One more row."""
        self.numbers.append(number)
        self.urls.append(url)
        self.captions.append(caption)
        self.pages.append(page)
        self.extras.append(extra)


def detect_format(name: str) -> tuple[Format, str | None]:
    """Format and compression (gzip, zstd) of a list, by its name. Raises: SourceError that lists the known endings."""
    path = Path(name.lower())
    compression = _COMPRESSIONS.get(path.suffix)
    kind = _SUFFIXES.get(Path(path.stem).suffix if compression else path.suffix)
    if kind is None or (kind == "parquet" and compression):
        raise SourceError(
            f"{name}: no pair list by its ending; known are {', '.join(_SUFFIXES)}, all but Parquet also .gz and .zst"
        )
    return kind, compression


def read_row_group_sizes(path: Path) -> list[int]:
    """Rows in each row group of a Parquet list. Raises: SourceError when it cannot be read."""
    with translate_errors(path), pq.ParquetFile(path) as file:
        return [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]


def read_list(
    path: Path, asked: ColumnNames, note: Note, *, name: str | None = None, groups: Sequence[int] | None = None
) -> Iterator[RawRows]:
    """The rows of a list, at most BATCH_ROWS at a time; memory does not grow with the file.

    Args:
        asked: columns that the config names; the others are recognised.
        note: told of rows that cannot be read: `wrong_fields`, `bad_quotes`, `field_too_long`, `line_too_long`,
            `not_utf8`, `bad_json`, `not_an_object`, `url_not_text`, `caption_not_text`.
        name: what errors call the file, and what its format is told by; its own name where None.
        groups: row groups of a Parquet list to read; all where None.

    Raises: ConfigError when the columns cannot be told; SourceError when the file cannot be read.
    """
    name = name or path.name
    kind, compression = detect_format(name)
    with translate_errors(path):
        if kind == "parquet":
            rows = _read_parquet(path, asked, note, name, groups)
        else:
            rows = _read_text(path, kind, compression, asked, note, name)
        for batch in rows:
            yield _encodable(batch, note)


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turns what a broken file makes a reader raise into SourceError."""
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowException) as error:
        raise SourceError(
            f"{path}: cannot be read ({str(error) or type(error).__name__}); fetch it again, or leave it out"
        ) from error


def _read_text(
    path: Path, kind: Format, compression: str | None, asked: ColumnNames, note: Note, name: str
) -> Iterator[RawRows]:
    with pa.input_stream(str(path), compression=compression, buffer_size=1 << 20) as stream:
        binary = cast("BinaryIO", io.BufferedReader(cast("Any", stream), 1 << 20))
        read = _read_jsonl(binary, asked, note, name) if kind == "jsonl" else None
        read = read or _read_delimited(binary, "\t" if kind == "tsv" else ",", asked, note, name)
        rows = RawRows()
        for row in read:
            rows.add(*row)
            if len(rows.numbers) == BATCH_ROWS:
                yield rows
                rows = RawRows()
        yield rows


_Row = tuple[int, str | None, str | None, str | None, str | None]


def _read_delimited(stream: BinaryIO, delimiter: str, asked: ColumnNames, note: Note, name: str) -> Iterator[_Row]:
    columns, carried, number = None, (), 0
    for fields in parse_records(stream, delimiter):
        if isinstance(fields, str):
            note(number, fields)
        elif columns is None:
            columns = find_columns_in_first_row(fields, asked, name)
            if columns.has_header:
                carried = tuple(fields[i] for i in columns.extra)
                continue
            yield number, fields[columns.url], fields[columns.caption], None, None
        elif len(fields) != columns.width:
            note(number, "wrong_fields")
        else:
            page = None if columns.page is None else fields[columns.page]
            extra = _json(dict(zip(carried, (fields[i] for i in columns.extra), strict=True))) if carried else None
            yield number, fields[columns.url], fields[columns.caption], page, extra
        number += 1
    if columns is None:
        raise SourceError(f"{name}: holds no row")


def _read_jsonl(stream: BinaryIO, asked: ColumnNames, note: Note, name: str) -> Iterator[_Row]:
    """JSON Lines; the columns are told by the keys of the first object."""
    keys: list[str] = []
    columns = None
    for number, line in enumerate(_json_lines(stream)):
        value = _object(line)
        if isinstance(value, str):
            if value:
                note(number, value)
            continue
        if columns is None:
            keys = list(value)
            columns = find_columns(keys, asked, name)
        texts = _texts(value, keys, columns)
        if isinstance(texts, str):
            note(number, texts)
            continue
        carried = {keys[i]: value.get(keys[i]) for i in columns.extra}
        yield number, *texts, _json(carried) if carried else None
    if columns is None:
        raise SourceError(f"{name}: holds no JSON object")


def _json_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines as UTF-8, None for one that is too long."""
    text = decode_stream(stream)
    while line := text.readline(MAX_JSON_LINE):
        if len(line) == MAX_JSON_LINE and line[-1] != "\n":
            while (rest := text.readline(MAX_JSON_LINE)) and rest[-1] != "\n":
                pass
            yield None
        else:
            yield line.encode("utf-8", "surrogatepass")


def _object(line: bytes | None) -> dict[str, Any] | str:
    """The object of a line, or why there is none; an empty string for a blank line."""
    if line is None:
        return "line_too_long"
    if line.isspace():
        return ""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "bad_json"
    return value if isinstance(value, dict) else "not_an_object"


def _texts(value: Mapping[str, Any], keys: Sequence[str], columns: Columns) -> Any:
    url, caption = value.get(keys[columns.url]), value.get(keys[columns.caption])
    page = None if columns.page is None else value.get(keys[columns.page])
    if not isinstance(url, str | None):
        return "url_not_text"
    if not isinstance(caption, str | None):
        return "caption_not_text"
    return url, caption, page if isinstance(page, str) else None


def _read_parquet(
    path: Path, asked: ColumnNames, note: Note, name: str, groups: Sequence[int] | None
) -> Iterator[RawRows]:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        schema = file.schema_arrow
        columns = find_columns(schema.names, asked, name)
        page = [] if columns.page is None else [columns.page]
        for i in (columns.url, columns.caption, *page):
            _check_text(schema.field(i), schema, name)
        wanted = [schema.names[i] for i in dict.fromkeys((columns.url, columns.caption, *page, *columns.extra))]
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        for group in range(len(sizes)) if groups is None else groups:
            number = sum(sizes[:group])
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
                yield _parquet_rows(batch, schema, columns, number, note)
                number += batch.num_rows


def _parquet_rows(batch: pa.RecordBatch, schema: pa.Schema, columns: Columns, start: int, note: Note) -> RawRows:
    count = batch.num_rows
    names = schema.names

    def text(i: int) -> list[str | None]:
        return _decoded(batch[names[i]])

    carried = [names[i] for i in columns.extra]
    extras: list[str | None] = [None] * count
    if carried:
        values = zip(*(batch[name].to_pylist() for name in carried), strict=True)
        extras = [_json(dict(zip(carried, row, strict=True))) for row in values]
    pages = [None] * count if columns.page is None else text(columns.page)
    return RawRows(list(range(start, start + count)), text(columns.url), text(columns.caption), pages, extras)


def _check_text(field: pa.Field, schema: pa.Schema, name: str) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_binary(kind)):
        listed = ", ".join(f"{f.name} {f.type}" for f in schema)
        raise SourceError(f"{name}: column {field.name!r} holds {field.type}, not text; its columns: {listed}")


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _decoded(column: pa.Array) -> list[str | None]:
    """Texts; bytes that are none become lone surrogates."""
    if pa.types.is_dictionary(column.type):
        column = cast("pa.DictionaryArray", column).dictionary_decode()
    if not _is_binary(column.type):
        column = pc.cast(column, pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    try:
        return pc.cast(column, pa.large_string()).to_pylist()
    except pa.ArrowInvalid:
        return [None if v is None else v.decode("utf-8", "surrogateescape") for v in column.to_pylist()]


def _encodable(rows: RawRows, note: Note) -> RawRows:
    """The rows whose address and caption are text; the others are noted as `not_utf8`."""
    try:
        "".join(text for text in (*rows.urls, *rows.captions, *rows.pages) if text).encode()
    except UnicodeEncodeError:
        pass
    else:
        return rows
    kept = RawRows()
    for number, url, caption, page, extra in zip(
        rows.numbers, rows.urls, rows.captions, rows.pages, rows.extras, strict=True
    ):
        if _is_text(url) and _is_text(caption):
            kept.add(number, url, caption, page if _is_text(page) else None, extra)
        else:
            note(number, "not_utf8")
    return kept


def _is_text(value: str | None) -> bool:
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(values: Mapping[str, Any]) -> str:
    """Carried columns as one JSON object; a number stays a number, what JSON has no type for becomes text."""
    try:
        return orjson.dumps(values, default=_as_text).decode()
    except orjson.JSONEncodeError:  # lone surrogates, integers beyond 64 bits
        return orjson.dumps({k: _as_text(v) for k, v in values.items()}).decode()


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode()
