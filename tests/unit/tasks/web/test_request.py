"""Requests over kept connections, to a server of raw answers on loopback."""

import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tasks.web.address_policy import AddressResolver
from tasks.web.connection import Connection, IdleConnections
from tasks.web.fetch_error import FetchError
from tasks.web.request import HttpClient, allow_body, parse_retry_seconds, read_body, split_url, translate_errors

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = OK + b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: trailer\r\n\r\n"
SILENCE = b"silence"
"""No answer, until the client closes the connection."""
ORIGIN = ("http", "a.test", 80)


class RawServer:
    """Gives the answers of each connection in turn, and then closes it."""

    def __init__(self, *answers):
        self.requests = []
        """Number of the connection, and the bytes of the request."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        threading.Thread(target=self._accept, args=(answers,), daemon=True).start()

    def _accept(self, answers):
        with self._listener:
            for number, script in enumerate(answers):
                sock, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(sock, number, script), daemon=True).start()

    def _answer(self, sock, number, script):
        with sock, suppress(OSError):
            for answer in script:
                if not (request := sock.recv(65_536)):
                    return
                self.requests.append((number, request))
                if answer == SILENCE:
                    sock.recv(1)
                else:
                    sock.sendall(answer)

    def connections(self):
        return [number for number, _ in self.requests]


@pytest.fixture
def addresses():
    return {}


@pytest.fixture
def client(addresses):
    client = HttpClient(AddressResolver(addresses), "test", contact=True)
    yield client
    client.close()


def fetch(client, url="http://a.test/", cap=1_000, seconds=30.0):
    with (
        translate_errors(seconds),
        client.get(split_url(url), time.monotonic() + seconds, allow_body(cap)) as response,
    ):
        return b"".join(read_body(response, cap))


def test_client_closes_a_connection_whose_response_was_not_read_to_its_end(client, addresses):
    server = RawServer([WHOLE, WHOLE], [CHUNKED, WHOLE], [CHUNKED, WHOLE], [WHOLE])
    addresses["a.test"] = server.address
    with client.get(split_url("http://a.test/"), time.monotonic() + 30, allow_body(9)):
        pass
    with client.get(split_url("http://a.test/"), time.monotonic() + 30, allow_body(9)) as response:
        assert response.read(2) == b"ok"  # without the last chunk
    with pytest.raises(FetchError, match=r"^too_large: over 1 bytes$"):
        fetch(client, cap=1)
    assert fetch(client) == b"ok"
    assert server.connections() == [0, 1, 2, 3]


@pytest.mark.parametrize("first", [[WHOLE], [WHOLE, b""]], ids=["idle", "at-request"])
def test_client_repeats_a_request_once_if_the_server_closed_a_kept_connection(client, addresses, first):
    server = RawServer(first, [WHOLE], [b""])
    addresses["a.test"] = server.address
    assert [fetch(client), fetch(client)] == [b"ok", b"ok"]
    with pytest.raises(FetchError, match=r"^connect: "):
        fetch(client)
    numbers = server.connections()
    assert numbers[-2:] == [1, 2]
    assert numbers.count(0) <= 2


def test_client_signs_a_repeated_request_again(addresses):
    server, numbers = RawServer([WHOLE, b""], [WHOLE]), iter(range(9))
    addresses["a.test"] = server.address

    def sign(scheme, authority):
        return {"Signature": f"{scheme} {authority} {next(numbers)}"}

    client = HttpClient(AddressResolver(addresses), "test", contact=True, sign=sign)
    assert fetch(client) == fetch(client) == b"ok"
    client.close()
    assert server.connections() == [0, 0, 1]  # the second request got no answer, and was sent again
    assert [f"Signature: http a.test {n}\r\n".encode() in one for n, (_, one) in enumerate(server.requests)] == [
        True
    ] * 3


@pytest.mark.parametrize("part", [b"HT", OK, WHOLE[:-1]])
def test_client_repeats_no_request_whose_response_began(client, addresses, part):
    server = RawServer([WHOLE, part], [WHOLE])
    addresses["a.test"] = server.address
    fetch(client)
    with pytest.raises(FetchError, match=r"^(bad_response|incomplete): "):
        fetch(client)
    assert server.connections() == [0, 0]


def test_connection_serves_only_its_host_at_an_address_that_is_still_allowed(client, addresses):
    first, second = RawServer([WHOLE, WHOLE], [WHOLE]), RawServer([WHOLE])
    addresses |= {"a.test": first.address, "b.test": first.address}
    fetch(client, "http://a.test/")
    fetch(client, "http://b.test/")
    assert first.connections() == [0, 1]
    addresses["a.test"] = second.address
    fetch(client, "http://a.test/")
    assert (first.connections(), second.connections()) == ([0, 1], [0])
    del addresses["b.test"]
    with pytest.raises(FetchError, match=r"^dns: "):
        fetch(client, "http://b.test/")


def test_request_names_its_host_and_refuses_control_characters(client, addresses):
    server = RawServer([WHOLE, WHOLE], [WHOLE], [])
    addresses["a.test"] = server.address
    for url in ("http://a.test:80/x y?q=ü", "http://a.test:80", "http://a.test:81/"):
        fetch(client, url)
    expected = [("/x%20y?q=%C3%BC", "a.test"), ("/", "a.test"), ("/", "a.test:81")]
    lines = "GET {} HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: identity\r\nUser-Agent: test\r\n\r\n"
    assert [request.decode() for _, request in server.requests] == [lines.format(*pair) for pair in expected]
    headers = {"If-None-Match": '"1"\r\nCookie: x'}
    with (
        pytest.raises(FetchError, match=r"^bad_response: LocalProtocolError$"),
        translate_errors(30),
        client.get(split_url("http://a.test/"), time.monotonic() + 30, allow_body(9), **headers),
    ):
        pass


def test_idle_connections_are_few_and_expire():
    pairs = [socket.socketpair() for _ in range(4)]
    made = [Connection(near, (socket.AF_INET, ("127.0.0.1", n))) for n, (near, _) in enumerate(pairs)]
    idle, targets = IdleConnections(most=2), [one.target for one in made if one.target]
    for one in made[:3]:
        idle.put(ORIGIN, one)
    assert [near.fileno() < 0 for near, _ in pairs] == [True, False, False, False]  # the oldest was closed
    assert idle.take(("https", "a.test", 80), targets) is None
    assert idle.take(ORIGIN, targets) is made[2]  # the one that was used last
    pairs[1][1].sendall(b"unasked")
    assert idle.take(ORIGIN, targets) is None
    assert pairs[1][0].fileno() < 0
    old = IdleConnections(seconds=0.0)
    old.put(ORIGIN, made[2])
    assert old.take(ORIGIN, targets) is None
    idle.put(ORIGIN, made[3])
    idle.close()
    assert pairs[3][0].fileno() < 0
    assert idle.take(ORIGIN, targets) is None
    for _, far in pairs:
        far.close()


def test_parse_retry_seconds_reads_dates():
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < (parse_retry_seconds(at) or 0) <= 90
    assert parse_retry_seconds("Fri, 01 Jan 1999 00:00:00 GMT") == 0
    assert parse_retry_seconds("soon") is None
