import socket
import threading
import time
from contextlib import suppress

import pytest

from tasks.web.connection import ByteBudget, Connection
from tasks.web.fetch_error import FetchError
from tasks.web.request import split_url, translate_errors

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def ends():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def answered(ends, data, limit=1_000_000, seconds=60.0):
    def send():
        with suppress(OSError):
            ends[1].sendall(data)
            ends[1].shutdown(socket.SHUT_WR)

    threading.Thread(target=send, daemon=True).start()
    return Connection(ends[0]).send(split_url("http://a.test"), time.monotonic() + seconds, ByteBudget(limit), {})


def whole(response):
    return b"".join(iter(lambda: response.read(10), b""))


def test_response_joins_folded_headers_and_replaces_invalid_bytes(ends):
    head = b"A: 1\r\n\t2\r\nB : \xe9\0x\rX-Injected: y\r\n no\r\nC:\r\nC: two\x0b3\r\nbad name: z\r\nnothing\r\n\r\n"
    headers = answered(ends, OK + head).headers
    expected = [("A", "1 2"), ("B", "\xe9 x X-Injected: y no"), ("C", ""), ("C", "two 3")]
    assert headers.items() == expected


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_response_without_a_body_ends_at_its_headers(ends, status):
    response = answered(ends, b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
    assert whole(response) == b""


def test_connection_reads_exactly_its_budget(ends):
    head = OK + b"\r\n"
    response = answered(ends, head + b"x" * 1000, limit=50)
    assert response.read(100) == b"x" * (50 - len(head))
    with pytest.raises(FetchError, match=r"^too_large: over 50 bytes with headers and chunk sizes$"):
        response.read(1)


def test_connection_ends_at_its_deadline_though_bytes_arrive(ends):
    with pytest.raises(FetchError, match=r"^timeout: not whole after 7 s$"), translate_errors(7):
        answered(ends, OK, seconds=-1)


@pytest.mark.parametrize("error", [ValueError("x"), UnicodeError("x")])
def test_translate_errors_makes_errors_of_libraries_a_row(error):
    with pytest.raises(FetchError, match=f"^bad_response: {type(error).__name__}$"), translate_errors(1):
        raise error
