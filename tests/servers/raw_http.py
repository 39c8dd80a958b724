"""Serves raw bytes on loopback, one answer a host, and counts what its clients read."""

import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = bytes | Iterable[bytes]
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass
class RawWeb:
    """The answers by host (`a.test/robots.txt`), and the log of the requests."""

    answers: dict[str, Answer]
    port: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    hosts: dict[int, str] = field(default_factory=dict)
    """Host and path of a request by the port of its client."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes that the server sent, with those in the buffers of the system, by host and path."""
    received: Counter[int] = field(default_factory=Counter)
    """Bytes that the clients of this process read, by the port of the client."""
    earlier: Counter[str] = field(default_factory=Counter)
    """Those of connections whose port the system gave to a later one, by host and path."""

    def connect_to(self):
        return {name.partition("/")[0]: f"127.0.0.1:{self.port}" for name in self.answers if name[0] != "/"}

    def begin(self, port):
        """Count the bytes of a new connection from a port, whose request has not been sent yet."""
        if port in self.received:
            self.earlier[self.hosts.pop(port, "?")] += self.received[port]
        self.received[port] = 0

    def read_bytes(self):
        """Return the number of bytes that clients read, by host and path."""
        found = self.earlier.copy()
        for port, size in self.received.items():
            found[self.hosts.get(port, "?")] += size
        return found


class _Handler(socketserver.BaseRequestHandler):
    def handle(self):
        web = self.server.web
        request = b""
        with suppress(OSError):
            while b"\r\n\r\n" not in request and (data := self.request.recv(65_536)):
                request += data
            path = request.split(b" ", 2)[1].decode()
            host = request.partition(b"\r\nHost: ")[2].partition(b"\r\n")[0].decode()
            web.requests[host + path] += 1
            web.hosts[self.client_address[1]] = host + path
            is_file = path in ("/robots.txt", "/ai.txt", "/.well-known/tdmrep.json")
            default = NOT_FOUND if is_file else web.answers.get(host, NOT_FOUND)
            answer = web.answers.get(host + path, web.answers.get(path, default))
            for piece in [answer] if isinstance(answer, bytes) else answer:
                self.request.sendall(piece)
                web.sent[host + path] += len(piece)


@contextmanager
def served(answers, monkeypatch):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.web = web = RawWeb(answers, server.server_address[1])
        _count_reads(web, monkeypatch)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield web
        server.shutdown()


def _count_reads(web, monkeypatch):
    def connect(self, address):
        super(socket.socket, self).connect(address)
        if self.family == socket.AF_INET and address[1] == web.port:
            web.begin(self.getsockname()[1])

    def recv(self, *args):
        data = super(socket.socket, self).recv(*args)
        if self.family == socket.AF_INET and (port := self.getsockname()[1]) in web.received:
            web.received[port] += len(data)  # the server may have closed the connection: it has no peer
        return data

    for method in (connect, recv):
        monkeypatch.setattr(socket.socket, method.__name__, method, raising=False)


@dataclass(frozen=True)
class Endless:
    """An endless answer: in large pieces, or one piece after each pause."""

    start: bytes
    piece: bytes
    pause: float = 0.0

    def __iter__(self):
        yield self.start
        piece = self.piece if self.pause else self.piece * (65_536 // len(self.piece) + 1)
        while True:
            time.sleep(self.pause)
            yield piece
