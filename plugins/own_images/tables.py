"""Read the rows of a list of images: CSV, TSV, JSON Lines or Parquet."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

from dataops.errors import UnusableSource
from plugins.own_images.lists import detect_format, has_text, is_binary, naming_file, open_text
from plugins.own_images.parquet_batches import iter_batches
from plugins.own_images.text_records import json_lines, parse_records, read_objects
from tasks.files.base import SourceFile

_BATCH = 1_024
Row = tuple[int, dict[str, Any]]


def read_rows(
    file: SourceFile, choose: Callable[[Sequence[str]], Sequence[str]], report: Callable[[int, str], None]
) -> Iterator[Row]:
    """Yield the number and the values of each row of a list.

    Args:
        choose: returns the columns to read of those with texts; of JSON Lines, all keys are in a row.
        report: called for rows that cannot be read, with a reason as of pair lists.

    Raises: UnusableSource if the list cannot be read, has no row, or is not UTF-8; ConfigError of `choose`.
    """
    kind, compression = detect_format(file.name)
    with file.local() as path, naming_file(path, file.name):
        if kind == "parquet":
            yield from _read_parquet(path, choose, file.name)
            return
        with open_text(path, compression) as binary:
            if kind == "jsonl":
                rows = _read_objects(binary, choose, report, file.name)
            else:
                rows = _read_records(binary, "\t" if kind == "tsv" else ",", choose, report, file.name)
            number = -1
            for number, row in rows:
                yield number, row
            if number < 0:
                what = "line that is a JSON object" if kind == "jsonl" else "row"
                raise UnusableSource(f"{file.name}: contains no {what}")


def _read_parquet(path: Path, choose: Callable[[Sequence[str]], Sequence[str]], name: str) -> Iterator[Row]:
    columns = [*choose([one.name for one in pq.read_schema(path) if has_text(one.type) or is_binary(one.type)])]
    for start, batch in iter_batches(path, columns, _BATCH):
        for number, row in enumerate(batch.to_pylist(), start):
            texts = {key: _decode(value, name, number) for key, value in row.items() if isinstance(value, bytes)}
            yield number, row | texts


def _decode(value: bytes, name: str, number: int) -> str:
    text = value.decode("utf-8", "surrogateescape")
    _check_text([text], name, f"row {number:,}")
    return text


def _read_records(
    stream: BinaryIO,
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
    stream: BinaryIO,
    choose: Callable[[Sequence[str]], Sequence[str]],
    report: Callable[[int, str], None],
    name: str,
) -> Iterator[Row]:
    keys, objects = read_objects(_checked(json_lines(stream), name), report)
    if keys:
        choose(keys)
    yield from objects


def _checked(lines: Iterator[bytes | None], name: str) -> Iterator[bytes | None]:
    for number, line in enumerate(lines):
        _check_text([(line or b"").decode("utf-8", "surrogatepass")], name, f"line {number + 1:,}")
        yield line
