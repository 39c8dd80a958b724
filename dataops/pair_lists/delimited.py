"""Records of CSV and TSV files, whatever state the files are in, in bounded memory."""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

MAX_FIELD_CHARS = 1 << 17
"""Longer fields make a bad record: most are an opening quotation mark that nothing closes."""
MAX_LINE_CHARS = 1 << 22
"""Longer lines are skipped, so that a file without line ends cannot fill the memory."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def parse_records(stream: BinaryIO, delimiter: str) -> Iterator[list[str] | str]:
    """The records in turn, each its fields, or why it has none: bad_quotes, field_too_long, line_too_long.

    With commas, quotation marks are those of RFC 4180. With tabs they are characters like others, as in CC3M and CC12M
    (IANA's text/tab-separated-values). Where they are out of order, the bad record is the line that it began on. Blank
    lines are no records. Bytes that are not text come as lone surrogates.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines = _Lines(decode_stream(stream))
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    ended = False
    while not ended:
        fields: list[str] | str
        try:
            fields = next(reader, "")
            ended = fields == ""
            lines.record_read()
        except csv.Error as error:
            fields = "field_too_long" if "limit" in str(error) else "bad_quotes"
            lines.second_line_again()
        for _ in range(lines.skipped):
            yield "line_too_long"
        lines.skipped = 0
        if fields:
            yield fields


def decode_stream(stream: BinaryIO) -> IO[str]:
    """The stream as text by its byte order mark, else as UTF-8; what is not text comes as lone surrogates."""
    start = cast("io.BufferedReader", stream).peek(4)
    mark, encoding = next(((m, e) for m, e in _MARKS if start.startswith(m)), (b"", "utf-8"))
    stream.read(len(mark))
    errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
    return io.TextIOWrapper(stream, encoding=encoding, errors=errors, newline="")


class _Lines:
    """Lines of a text, bounded, that can be given again from the second line of the record that is being read."""

    def __init__(self, text: IO[str]):
        self._text = text
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self.skipped = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if not line:
            raise StopIteration
        self._taken.append(line)
        return line

    def _read(self) -> str:
        while len(line := self._text.readline(MAX_LINE_CHARS)) == MAX_LINE_CHARS and line[-1] not in "\r\n":
            while (rest := self._text.readline(MAX_LINE_CHARS)) and rest[-1] not in "\r\n":
                pass
            self.skipped += 1
        return line

    def record_read(self) -> None:
        self._taken.clear()

    def second_line_again(self) -> None:
        self._again.extendleft(reversed(self._taken[1:]))
        self._taken.clear()
