"""Splits the text of lists into records: CSV, TSV, and JSON Lines."""

import codecs
import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO, Any, BinaryIO, cast

import orjson

ReportBadRow = Callable[[int, str], None]
"""Called with the number of a row that cannot be read, and the reason."""

MAX_FIELD_CHARS = 1 << 17
"""Maximum length of a field; longer ones are bad: most come from a quotation mark that is never closed."""
MAX_LINE_CHARS = 1 << 22
"""Maximum length of a line; longer lines are skipped, so that a file without line ends does not fill the memory."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def parse_records(stream: BinaryIO, delimiter: str) -> Iterator[list[str] | str]:
    """Yield each record as its fields, or the reason why it is bad: bad_quotes, field_too_long, line_too_long.

    In comma-separated files, quotation marks follow RFC 4180. In tab-separated files they are ordinary characters, as in
    CC3M and CC12M (IANA's text/tab-separated-values). If quotation marks are misplaced, only the first line of the record
    is bad. Blank lines are skipped. Bytes that are not text become lone surrogates. A comma-separated file whose first
    line has semicolons or tabs and no comma is separated by those: spreadsheets write such a CSV in many countries.
    """
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines = _Lines(decode_stream(stream))
    if delimiter == "," and "," not in (first := lines.peek()):
        delimiter = next((other for other in ";\t" if other in first), ",")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    ended = False
    while not ended:
        fields: list[str] | str
        try:
            fields = next(reader, "")
            ended = fields == ""
            lines.forget_record()
        except csv.Error as error:
            fields = "field_too_long" if "limit" in str(error) else "bad_quotes"
            lines.return_to_second_line()
        for _ in range(lines.skipped):
            yield "line_too_long"
        lines.skipped = 0
        if fields:
            yield fields


def decode_stream(stream: BinaryIO) -> IO[str]:
    """Decode a stream by its byte-order mark, else as UTF-8; bytes that are not text become lone surrogates."""
    start = cast("io.BufferedReader", stream).peek(4)
    mark, encoding = next(((m, e) for m, e in _MARKS if start.startswith(m)), (b"", "utf-8"))
    stream.read(len(mark))
    errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
    return io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")


class _Lines:
    """The lines of a text, with a maximum length, and with a way back to the second line of the current record."""

    def __init__(self, text: IO[str]):
        self._text = text
        self._returned: deque[str] = deque()
        self._record: list[str] = []
        self.skipped = 0
        """Number of lines that were too long."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._read()
        if not line:
            raise StopIteration
        self._record.append(line)
        return line

    def _read(self) -> str:
        while len(line := self._text.readline(MAX_LINE_CHARS)) == MAX_LINE_CHARS and line[-1] not in "\r\n":
            while (rest := self._text.readline(MAX_LINE_CHARS)) and rest[-1] not in "\r\n":
                pass
            self.skipped += 1
        return line

    def peek(self) -> str:
        """Return the first line, which is read again."""
        self._returned.append(self._read())
        return self._returned[0]

    def forget_record(self) -> None:
        self._record.clear()

    def return_to_second_line(self) -> None:
        self._returned.extendleft(reversed(self._record[1:]))
        self._record.clear()


MAX_JSON_LINE = 1 << 22
"""Maximum length of a line of JSON; longer lines are skipped as bad rows."""
_FIRST_LINES = 1_000
"""Lines of JSON whose keys are the columns."""


def json_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines as UTF-8, None for a line that is too long."""
    text = decode_stream(stream)
    while line := text.readline(MAX_JSON_LINE):
        if len(line) == MAX_JSON_LINE and line[-1] != "\n":
            while (rest := text.readline(MAX_JSON_LINE)) and rest[-1] != "\n":
                pass
            yield None
        else:
            yield line.encode("utf-8", "surrogatepass")


def read_objects(
    lines: Iterator[bytes | None], report: ReportBadRow
) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """Return the keys of the first objects of JSON Lines, any of which an object may lack, and all objects by number.

    Args:
        report: called for lines without an object.
    """
    first: list[bytes | None] = []
    keys: dict[str, None] = {}
    size = 0
    for line in lines:
        first.append(line)
        if isinstance(value := _parse_object(line), dict):
            keys |= dict.fromkeys(value)
        size += len(line or b"")
        if len(first) == _FIRST_LINES or size > MAX_JSON_LINE:
            break
    return [*keys], _read_objects(chain(first, lines), report)


def _read_objects(lines: Iterable[bytes | None], report: ReportBadRow) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines):
        value = _parse_object(line)
        if isinstance(value, dict):
            yield number, value
        elif value:
            report(number, value)


def _parse_object(line: bytes | None) -> dict[str, Any] | str:
    """Return the object of a line, or the reason why there is none; '' for a blank line.

    Python's json and pandas write a missing number as NaN, which is no JSON: it is read as null.
    """
    if line is None:
        return "line_too_long"
    if line.isspace():
        return ""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        if b"NaN" not in line:
            return "bad_json"
        try:
            value = orjson.loads(orjson.dumps(json.loads(line)))
        except (ValueError, TypeError, RecursionError):  # TypeError: lone surrogates
            return "bad_json"
    return value if isinstance(value, dict) else "not_an_object"
