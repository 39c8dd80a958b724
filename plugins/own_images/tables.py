"""Read the rows of a list of images: CSV, TSV, JSON Lines or Parquet."""

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import UnusableSource
from dataops.regular_files import check_regular
from plugins.own_images.lists import MAX_JSON_LINE, decode_stream, detect_format, parse_records
from tasks.files.base import SourceFile

_BATCH = 1_024
Row = tuple[int, dict[str, Any]]


@contextmanager
def naming_file(name: str) -> Iterator[None]:
    """Name the file in what is raised for one that cannot be read. Raises: UnusableSource."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        why = str(error).replace("\n", " ")[:300] or type(error).__name__
        raise UnusableSource(f"{name}: cannot be read ({why}); write it again, or remove it from the source") from error


def read_rows(
    file: SourceFile, choose: Callable[[Sequence[str]], Sequence[str]], report: Callable[[int, str], None]
) -> Iterator[Row]:
    """Yield the number and the values of each row of a list.

    Args:
        choose: returns the columns to read of those that there are; of JSON Lines, all keys are in a row.
        report: called for rows that cannot be read, with a reason as of pair lists.

    Raises: UnusableSource if the list cannot be read, has no row, or is not UTF-8; ConfigError of `choose`.
    """
    kind, compression = detect_format(file.name)
    with file.local() as path, naming_file(file.name):
        check_regular(path)
        if kind == "parquet":
            yield from _read_parquet(path, choose)
            return
        with pa.input_stream(str(path), compression=compression, buffer_size=1 << 20) as stream:
            binary = cast(io.BufferedReader, io.BufferedReader(cast(Any, stream), 1 << 20))
            if kind == "jsonl":
                rows = _read_objects(binary, choose, report, file.name)
            else:
                rows = _read_records(binary, "\t" if kind == "tsv" else ",", choose, report, file.name)
            number = -1
            for number, row in rows:
                yield number, row
            if number < 0:
                raise UnusableSource(f"{file.name}: contains no row")


def _read_parquet(path: Path, choose: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[Row]:
    number = 0
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as table:
        for batch in table.iter_batches(_BATCH, columns=[*choose(table.schema_arrow.names)], use_threads=False):
            for row in batch.to_pylist():
                yield number, row
                number += 1


def _read_records(
    stream: io.BufferedReader,
    delimiter: str,
    choose: Callable[[Sequence[str]], Sequence[str]],
    report: Callable[[int, str], None],
    name: str,
) -> Iterator[Row]:
    header, wanted, number = list[str](), list[str](), 0
    for fields in parse_records(stream, delimiter):
        if isinstance(fields, str):
            report(number, fields)
        elif not header:
            _check_text(fields, name, "its header")
            header, wanted = fields, [*choose(fields)]
            continue
        elif len(fields) != len(header):
            report(number, "wrong_fields")
        else:
            row = dict(zip(header, fields, strict=True))
            _check_text([row[one] for one in wanted], name, f"row {number:,}")
            yield number, row
        number += 1


def _check_text(texts: Sequence[str], name: str, where: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        wrong = error.object[max(0, error.start - 20) : error.end + 20].encode("utf-8", "backslashreplace").decode()
        raise UnusableSource(
            f"{name}: {where} is not UTF-8 ({wrong!r}); save the list as UTF-8, for example with iconv -f latin1 -t utf-8"
        ) from error


def _read_objects(
    stream: io.BufferedReader,
    choose: Callable[[Sequence[str]], Sequence[str]],
    report: Callable[[int, str], None],
    name: str,
) -> Iterator[Row]:
    text, is_first = decode_stream(stream), True
    for number, line in enumerate(iter(lambda: text.readline(MAX_JSON_LINE), "")):
        if len(line) == MAX_JSON_LINE and line[-1] != "\n":
            while (rest := text.readline(MAX_JSON_LINE)) and rest[-1] != "\n":
                pass
            report(number, "line_too_long")
            continue
        if line.isspace():
            continue
        _check_text([line], name, f"line {number + 1:,}")
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            report(number, "bad_json")
            continue
        if not isinstance(value, dict):
            report(number, "not_an_object")
            continue
        if is_first:
            choose([*value])
            is_first = False
        yield number, value
