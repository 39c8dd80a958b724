"""Downloads through proxies, honest and lying ones, and by DNS servers of the config."""

import socket
import socketserver
import threading
from contextlib import closing, contextmanager
from typing import Any

import pytest
from dns.message import from_wire, make_response
from dns.rrset import from_text
from pydantic import ValidationError

from tasks.download.config import DownloadConfig
from tasks.download.opener import make_opener
from tasks.web.address_policy import DnsCache, ask_resolvers
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(50)
LOGIN = b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that answers the request behind each tunnel itself; `server.lie` replaces its answer."""

    server: Any

    def handle(self):
        first = self.rfile.read(1)
        place = self.socks() if first == b"\5" else self.connect(first)
        if place is None:
            return
        self.server.asked.append(place)
        while line := self.rfile.readline():
            path = line.split()[1]
            while self.rfile.readline().strip():
                pass
            status, body = (b"200", IMAGE) if path.endswith(b".png") else (b"404", b"")
            self.wfile.write(b"HTTP/1.1 %s x\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    def connect(self, first):
        line, head = first + self.rfile.readline(), b""
        while (header := self.rfile.readline()) != b"\r\n":
            head += header
        self.server.logins.append(LOGIN in head)
        if self.server.lie is not None:
            self.wfile.write(self.server.lie)
            return None
        self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        return line.split()[1].decode()

    def socks(self):
        if self.server.lie is not None:
            self.wfile.write(self.server.lie)
            self.request.shutdown(socket.SHUT_WR)
            self.rfile.read(100)
            return None
        methods = self.rfile.read(self.rfile.read(1)[0])
        self.wfile.write(b"\5" + methods[:1])
        if methods == b"\2":
            _, size = self.rfile.read(2)
            user, size = self.rfile.read(size), self.rfile.read(1)[0]
            self.server.logins.append((user, self.rfile.read(size)) == (b"me", b"secret"))
            self.wfile.write(b"\1\0")
        name = self.rfile.read(self.rfile.read(5)[4])
        port = int.from_bytes(self.rfile.read(2), "big")
        self.wfile.write(b"\5\0\0\1" + bytes(6))
        return f"{name.decode()}:{port}"


@contextmanager
def served(lie=None):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads = True
        found = server
        found.lie, found.asked, found.logins = lie, [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def fetch(folder, url, proxy, **options):
    known = {"contact": "mailto:a@b.test", "proxy": proxy, "host_rate": 0, "timeout": 60} | options
    with closing(make_opener(DownloadConfig.model_validate(known), HostState(folder))) as opener:
        return opener.open(url).read()


@pytest.mark.parametrize("kind", ["http", "socks5"])
@pytest.mark.parametrize("user", ["", "me@"])
def test_hosts_are_reached_through_a_proxy_which_resolves_their_names(tmp_path, monkeypatch, kind, user):
    monkeypatch.setenv("PAIRMILL_PROXY_PASSWORD", "secret")
    with served() as proxy:
        place = f"{kind}://{user}127.0.0.1:{proxy.server_address[1]}"
        assert fetch(tmp_path, "http://far.test:8080/1.png", place) == IMAGE
        assert set(proxy.asked) == {"far.test:8080"}, "also for robots.txt"
        assert set(proxy.logins) <= {bool(user)}
        for private in ("127.0.0.1", "10.0.0.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:10.0.0.1]"):
            with pytest.raises(FetchError, match="private_address"):
                fetch(tmp_path / "x", f"http://{private}/1.png", place)
        with pytest.raises(FetchError, match="connect: Connection refused"):
            fetch(tmp_path, "http://own.test/1.png", place, connect_to={"own.test": "127.0.0.1:9"})
        assert set(proxy.asked) == {"far.test:8080"}, "hosts of connect_to are reached without it"


@pytest.mark.parametrize(
    ("kind", "lie", "message"),
    [
        ("http", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy answers 407"),
        ("http", b"SSH-2.0-x\r\n\r\n", "no answer of HTTP/1"),
        ("http", b"", "no answer of HTTP/1"),
        ("http", b"HTTP/1.1 200 x\r\n\r\nHTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n", "no answer of HTTP/1"),
        ("http", b"x" * 200_000, "no answer of HTTP/1|too_large"),
        ("socks5", b"\4\0", "does not speak SOCKS5"),
        ("socks5", b"\5\xff", "wants another login"),
        ("socks5", b"\5\0\5\2\0\1" + bytes(6), "SOCKS5 reply 2"),
        ("socks5", b"\5\0\5\0\0\7" + bytes(6), "does not speak SOCKS5"),
        ("socks5", b"\5\0\5\0\0", "ended early"),
    ],
)
def test_proxy_that_lies_fails_the_row(tmp_path, kind, lie, message):
    with served(lie) as proxy, pytest.raises(FetchError, match=message):
        fetch(tmp_path, "http://far.test/1.png", f"{kind}://127.0.0.1:{proxy.server_address[1]}")


@pytest.mark.parametrize(
    "bad",
    [{"proxy": "ftp://a:1"}, {"proxy": "http://a"}, {"proxy": "http://me:secret@a:1"}, {"resolvers": ["dns.test"]}],
)
def test_config_refuses_other_proxies_and_resolvers(bad):
    with pytest.raises(ValidationError) as refused:
        DownloadConfig.model_validate(bad)
    assert "secret" not in str(refused.value.errors(include_input=False))


class Names(socketserver.BaseRequestHandler):
    """A DNS server."""

    server: Any

    def handle(self):
        data, sock = self.request
        query = from_wire(data)
        question, answer = query.question[0], make_response(query)
        self.server.asked.append(str(question.name))
        if question.rdtype == 1 and str(question.name) == "a.test.":
            answer.answer.append(from_text(question.name, 7, "IN", "A", "8.8.8.8"))
        sock.sendto(answer.to_wire(), self.client_address)


def test_resolvers_are_asked_once_for_all_processes_of_a_machine_and_within_the_ttl(tmp_path):
    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Names) as server:
        found = server
        found.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        lookup = ask_resolvers([("127.0.0.1", server.server_address[1])])
        caches = [DnsCache(lookup=lookup, shared=HostState(tmp_path), failed_seconds=5) for _ in range(3)]
        for _ in range(2):
            assert [one.resolve("a.test") for one in caches] == [[(socket.AF_INET, ("8.8.8.8", 0))]] * 3
            assert [one.resolve("none.test") for one in caches] == [[]] * 3
        assert caches[0].resolve("8.8.4.4") == [(socket.AF_INET, ("8.8.4.4", 0))], "no name"
        assert sorted(found.asked) == ["a.test."] * 2 + ["none.test."] * 2, "A and AAAA"
        kept = HostState(tmp_path).find_addresses("a.test")
        assert 0 < kept[1] <= 7
        server.shutdown()
