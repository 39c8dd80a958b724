"""Reads the records of CSV and TSV files, also of damaged ones, in bounded memory."""

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

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
    is bad. Blank lines are skipped. Bytes that are not text become lone surrogates.
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

    def forget_record(self) -> None:
        self._record.clear()

    def return_to_second_line(self) -> None:
        self._returned.extendleft(reversed(self._record[1:]))
        self._record.clear()
