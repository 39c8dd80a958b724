"""Send requests to a server that the user named: Prefect, MLflow, a catalogue of OpenLineage.

Its IP address may be private, so the address policy does not hold. The host is resolved once.
Redirects are not followed: credentials reach this server only. Neither proxies nor .netrc of the
environment are used. An answer has a maximum size, and the whole request ends at one deadline,
however slowly bytes arrive.
"""

import base64
import ipaddress
import time
import urllib.request
from contextlib import closing
from email.message import Message
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from dataops.reasons import Reason
from dataops.redaction import remove_logins
from tasks.web.address_policy import shared_dns
from tasks.web.connection import open_connection
from tasks.web.fetch_error import FetchError
from tasks.web.request import allow_body, port_of, read_body, split_url, translate_errors

MAX_ANSWER_BYTES = 64 << 20
"""Default maximum size of an answer, in bytes."""


def needs_proxy(url: str) -> bool:
    """Return whether the environment sets a proxy for a URL, so that only a client that uses proxies reaches it."""
    host, proxies = urlsplit(url).hostname or "", urllib.request.getproxies()
    return urlsplit(url).scheme in proxies and not urllib.request.proxy_bypass(host)


class ServerAnswer(NamedTuple):
    """The answer of a server."""

    status: int
    body: bytes
    headers: Message


def basic_login(url: str, login: str | None = None) -> dict[str, str]:
    """Return the header of a login `user:password`, by default the one in a URL; empty if there is none."""
    parts = urlsplit(url)
    if login is None and parts.username:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}


def send_request(
    url: str,
    body: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
    timeout: float = 10.0,
    limit: int = MAX_ANSWER_BYTES,
    encrypted: bool = False,
) -> ServerAnswer:
    """Send a request, POST of JSON if it has a body, and return the answer.

    Args:
        url: its login is not sent (`basic_login` returns it as a header).
        headers: further ones, or others than those of JSON.
        timeout: seconds for the whole request.
        limit: maximum size of the body of the answer, in bytes.
        encrypted: send nothing without TLS, except to this machine.

    Raises: FetchError: no answer in time, an answer over the limit, or an address that needs TLS.
    """
    parts, deadline = split_url(remove_logins(url)), time.monotonic() + timeout
    kinds = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
    lines = {**kinds, "Connection": "close", **(headers or {})}
    with translate_errors(timeout):
        found = shared_dns().resolve(parts.hostname or "", deadline)
        if not found:
            raise FetchError(Reason.DNS, "the host has no address" if found is not None else "no answer in time")
        if encrypted and parts.scheme != "https" and not all(map(_is_loopback, (address for _, address in found))):
            raise FetchError("not_encrypted", "credentials are sent over https only, except to this machine")
        targets = [(family, (address[0], port_of(parts), *address[2:])) for family, address in found]
        with closing(open_connection(parts, targets, deadline)) as connection:
            response = connection.send(parts, deadline, allow_body(limit), lines, body)
            return ServerAnswer(response.status, b"".join(read_body(response, limit)), response.headers)


def _is_loopback(address: tuple[str, int]) -> bool:
    return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
