"""Connects sockets whose reads end at one deadline and at one number of bytes."""

import socket
import ssl
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from tasks.web.address_policy import Target
from tasks.web.fetch_error import FetchError


class ByteBudget:
    """The bytes that one fetch may read from its sockets, over all its responses: heads, chunk sizes, bodies, trailers.

    Args:
        limit: number of bytes.
    """

    def __init__(self, limit: float):
        self.limit = self.left = limit


class BoundedSocket:
    """Bounds of a socket's reads. A timeout for each read alone would never end a slow stream of single bytes."""

    deadline: float = float("inf")
    """Time of time.monotonic() at which all reads end."""
    budget: ByteBudget = ByteBudget(0)
    """Bytes that may still be read; none until the connection gets its budget."""
    is_ended: bool = False
    """Whether reads return no more bytes, so that what a file of the socket has left is what it has buffered."""
    target: Target | None = None
    """Address that the socket is connected to."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        if self.is_ended:
            return 0
        self.settimeout(seconds_left(self.deadline))  # pyright: ignore[reportAttributeAccessIssue]
        size = min(nbytes or len(buffer), self.budget.left)
        if size <= 0:
            raise FetchError("too_large", f"over {self.budget.limit} bytes with headers and chunk sizes")
        read: int = super().recv_into(buffer, int(size), flags)  # pyright: ignore[reportAttributeAccessIssue]
        self.budget.left -= read
        return read


class PlainSocket(BoundedSocket, socket.socket):  # noqa: TID251  connects to a checked IP address
    """A socket with bounds."""


class TLSSocket(BoundedSocket, ssl.SSLSocket):
    """A socket with TLS and bounds; its budget is in decrypted bytes."""


def connect(targets: Iterable[Target], deadline: float) -> PlainSocket:
    """Return a socket that is connected to the first of `targets` that accepts. Raises: OSError."""
    failure: OSError = OSError("no address")
    for target in targets:
        family, address = target
        sock = PlainSocket(family, socket.SOCK_STREAM)
        sock.deadline = deadline
        try:
            sock.settimeout(seconds_left(deadline))
            sock.connect(address)
        except OSError as error:  # also a TimeoutError
            sock.close()
            failure = error
        else:
            sock.target = target
            return sock
    raise failure


def secure(sock: PlainSocket, host: str, deadline: float) -> TLSSocket:
    """Return the socket with TLS, whose certificate is checked for `host`. Raises: OSError, ValueError."""
    try:
        sock.settimeout(seconds_left(deadline))  # of the whole handshake
        secured: Any = _tls_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    secured.deadline, secured.target = deadline, sock.target
    return secured


def seconds_left(deadline: float) -> float:
    """Return the seconds until a time of time.monotonic(). Raises: TimeoutError if it is past."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Return the verifying context of this process: to read the certificates takes 20 ms."""
    context = ssl.create_default_context()
    context.sslsocket_class = TLSSocket
    return context
