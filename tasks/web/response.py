"""Reads one HTTP/1 response from a socket, with limits on all that surrounds the body.

http.client reads any number of interim responses other than 100 as final ones, takes `-1` as a chunk size, and limits
neither chunk extensions nor trailers. It also drops all headers after one without a colon, opt-outs among them.

Source: RFC 9112, sections 2.2, 4, 5.2, 6.3 and 7.1; RFC 9110, section 15.2.
"""

import io
import re
from email.message import Message

from tasks.web.fetch_error import FetchError

MAX_HEADER_BYTES = 65_536
"""Maximum size of the status lines and headers of one response and of its interim responses, in bytes."""
MAX_HEADERS = 256
"""Maximum number of header lines of one response."""
MAX_INTERIM = 10
"""Maximum number of interim responses (1xx) before the final one."""
MAX_FRAMING_BYTES = 65_536
"""Maximum size of chunk extensions and trailers, in bytes."""
_CHUNK_LINE_BYTES = 16
"""Bytes that a chunk's size line may have without counting as extension."""
_MAX_LINE = 8_192
_STATUS = re.compile(rb"HTTP/1\.(\d)[ \t]+([1-9]\d\d)(?:[ \t]++([^\r\n]*+))?+\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
_LINE_ENDS = (b"\r\n", b"\n")
_INVALID = bytes.maketrans(b"\r\0", b"  ")


class Response:
    """A response to a GET request, with its head read and its body unread.

    Args:
        file: file of the socket, after the request was sent. The response closes it, but not the socket.

    Raises: FetchError with the reason connect (nothing was sent), incomplete (the head or the body ended early) or
    bad_response (this is not HTTP/1, or over a limit of this module); what the socket raises.
    """

    def __init__(self, file: io.BufferedReader):
        self._file = file
        self._head_left = MAX_HEADER_BYTES
        self._framing = 0  # bytes of chunk extensions and trailers
        try:
            self._read_status(first=True)
            for _ in range(MAX_INTERIM):
                if self.status >= 200 or self.status == 101:
                    break
                self._read_headers()
                self._read_status()
            if self.status < 200:  # 101 is another protocol, which no request asks for
                raise FetchError("bad_response", f"status {self.status} without a final response")
            self.headers = self._read_headers()
            self.length, self._is_chunked = self._find_framing()
        except BaseException:
            self._file.close()
            raise
        self._left = 0 if self._is_chunked else self.length  # in the chunk or the body; None: until the connection ends
        self._is_first_chunk = True

    length: int | None
    """Size of the body in bytes, if the headers state it."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the body as soon as some are there, and none at its end."""
        if self._is_chunked and not self._left and size:
            self._start_chunk()
        if self._left is None:
            return self._file.read1(size)
        wanted = min(size, self._left)
        data = self._file.read1(wanted) if wanted else b""
        if wanted and not data:
            raise FetchError("incomplete", f"the body ended {'within a chunk' if self._is_chunked else _EARLY}")
        self._left -= len(data)
        return data

    def leaves_connection_open(self) -> bool:
        """Return whether the body was read to its end, and its server takes another request on the connection.

        The length of the body must be beyond doubt. Source: RFC 9112, sections 6.1, 6.3 and 9.3.
        """
        options = {option.lower() for option in list_header_values(self.headers, "Connection")}
        is_ambiguous = "Transfer-Encoding" in self.headers and "Content-Length" in self.headers
        is_read = self._left == 0 and not self._is_chunked
        return is_read and self._minor_version != b"0" and "close" not in options and not is_ambiguous

    def has_more(self) -> bool:
        """Return whether bytes after the body were read already. The socket must be at its end (`is_ended`)."""
        return bool(self._file.peek(1))

    def close(self) -> None:
        """Close the response's file of the socket."""
        self._file.close()

    def _read_status(self, *, first: bool = False) -> None:
        line = self._file.readline(min(_MAX_LINE, self._head_left) + 1)
        if not line and first:
            raise FetchError("connect", "closed without a response")
        self._count_head(line)
        found = _STATUS.fullmatch(line)
        if not found:
            raise FetchError("bad_response", "no HTTP/1 status line")
        self._minor_version, self.status = found[1], int(found[2])
        self.reason = (found[3] or b"").strip().decode("latin-1")

    def _count_head(self, line: bytes) -> None:
        self._head_left -= len(line)
        if self._head_left < 0:
            raise FetchError("bad_response", f"headers of more than {MAX_HEADER_BYTES} bytes")
        if not line:
            raise FetchError("incomplete", "the headers ended early")

    def _read_headers(self) -> Message:
        """Return the headers. A folded one becomes one line; a line that is no header is ignored, as browsers do."""
        lines: list[bytes] = []
        while (line := self._file.readline(self._head_left + 1)) not in _LINE_ENDS:
            self._count_head(line)
            lines.append(line)
            if len(lines) > MAX_HEADERS:
                raise FetchError("bad_response", f"more than {MAX_HEADERS} header lines")
        self._count_head(line)
        headers = Message()
        for line in _FOLD.sub(b" ", b"".join(lines)).split(b"\n"):
            name, colon, value = line.partition(b":")
            if colon and _TOKEN.fullmatch(name := name.rstrip(b" \t")):
                headers[name.decode("ascii")] = value.translate(_INVALID).strip(b" \t").decode("latin-1")
        return headers

    def _find_framing(self) -> tuple[int | None, bool]:
        """Return the length of the body, if it is known, and whether the body is chunked."""
        lengths = set(list_header_values(self.headers, "Content-Length"))
        codings = [coding.lower() for coding in list_header_values(self.headers, "Transfer-Encoding")]
        codings = [coding for coding in codings if coding not in ("", "identity")]
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise FetchError("bad_response", "Content-Length that is not one number")
        if codings not in ([], ["chunked"]):
            raise FetchError("bad_response", "Transfer-Encoding other than chunked")
        if self.status in (204, 304):
            return 0, False
        if codings:
            return None, True
        return (int(lengths.pop()) if lengths else None), False

    def _start_chunk(self) -> None:
        """Read the size of the next chunk; after the last one, read the trailers and end the body."""
        if not self._is_first_chunk and self._read_framing_line(2) not in _LINE_ENDS:
            raise FetchError("bad_response", "a chunk that is longer than its size")
        self._is_first_chunk = False
        line = self._read_framing_line(_MAX_LINE)
        found = _CHUNK.fullmatch(line)
        if not found:
            raise FetchError("bad_response", "a chunk without a valid size")
        self._left = int(found[1], 16)
        # Chunks of a few bytes are legal, so each size line counts against its chunk first.
        self._count_framing(len(line) - _CHUNK_LINE_BYTES - 2 * self._left)
        if not self._left:
            while (line := self._file.readline(_MAX_LINE)) and line not in _LINE_ENDS:
                self._count_framing(len(line))
            self._is_chunked = False

    def _read_framing_line(self, size: int) -> bytes:
        line = self._file.readline(size + 1)
        if not line.endswith(b"\n") and len(line) <= size:
            raise FetchError("incomplete", "the body ended within a chunk")
        return line

    def _count_framing(self, size: int) -> None:
        self._framing = max(0, self._framing + size)
        if self._framing > MAX_FRAMING_BYTES:
            raise FetchError("bad_response", f"chunk extensions or trailers of more than {MAX_FRAMING_BYTES} bytes")


_EARLY = "before its Content-Length"


def list_header_values(headers: Message, name: str) -> list[str]:
    """Return the elements of a header that is a comma-separated list, from all its lines."""
    return [element.strip() for value in headers.get_all(name, []) for element in value.split(",")]
