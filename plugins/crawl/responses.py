"""Converts Scrapy's responses and failures to captures, headers and outcomes."""

from contextlib import suppress
from datetime import UTC, datetime
from email.message import Message
from typing import Any

from scrapy.exceptions import IgnoreRequest

from dataops.archives.http_body import BadBody, decode_codings
from dataops.reasons import Reason
from dataops.rights.refusals import BOT_MANAGER, MAX_CHALLENGE_BYTES, find_challenge
from dataops.rights.rsl import RSL
from dataops.rights.signals import Agents, find_header_opt_outs
from plugins.crawl.archive import Capture
from plugins.crawl.download_handler import ResponseTooLarge
from tasks.web import request as wire
from tasks.web.connection import list_header_values

_FAILURES = {
    "DownloadTimeoutError": Reason.TIMEOUT,
    "DownloadCancelledError": Reason.TOO_LARGE,
    "ResponseDataLossError": Reason.INCOMPLETE,
    "DownloadConnectionRefusedError": Reason.CONNECT,
    "CannotResolveHostError": Reason.DNS,
    "DownloadFailedError": Reason.CONNECT,
}
TRANSIENT = frozenset({Reason.TIMEOUT, Reason.INCOMPLETE, Reason.CONNECT, Reason.DNS})
LICENSE_STATUSES = frozenset({401, 403, 503})
"""Statuses, beside 402, by which a server requires an RSL licence. Source: rslstandard.org/rsl, section 6.3.1."""
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class RequestRefused(IgnoreRequest):
    """Raised for a request that must not be sent; its text is the reason."""

    def __init__(self, reason: str, detail: str | None = None):
        super().__init__(reason)
        self.detail = detail


def classify_failure(error: BaseException) -> str:
    """Return the outcome of a failed request."""
    if isinstance(error, RequestRefused):
        return str(error)
    reasons = getattr(error.__cause__, "reasons", ())  # of Twisted's ResponseFailed
    if any(isinstance(reason.value, ResponseTooLarge) for reason in reasons):
        return Reason.TOO_LARGE
    return _FAILURES.get(type(error).__name__, Reason.CONNECT)


def build_capture(response: Any) -> Capture:
    """Return the request and the response for the archive."""
    return Capture(
        url=response.url,
        request_headers=_pairs(response.request.headers),
        status=response.status,
        protocol=response.protocol or "HTTP/1.1",
        headers=_pairs(response.headers),
        body=response.body,
        server_address=None if response.ip_address is None else str(response.ip_address),
        fetched_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def build_message(response: Any) -> Message:
    """Return the headers as a message of the standard library."""
    message = Message()
    for name, value in _pairs(response.headers):
        message[name] = value
    return message


def parse_retry_after(headers: Any) -> float | None:
    """Return the seconds of a Retry-After header, at least 0; None without a valid one."""
    return wire.parse_retry_seconds((headers.get("Retry-After") or b"").decode("latin-1"))


def _pairs(headers: Any) -> list[tuple[str, str]]:
    # White space is collapsed so that each header is one line in the archive.
    return [
        (name.decode("latin-1"), " ".join(value.decode("latin-1").split()))
        for name, values in headers.items()
        for value in values
    ]


def find_refusals(response: Any) -> list[tuple[str, str]]:
    """Return (signal, detail) of each requirement of a licence, and of the refusal of a bot manager."""
    status, headers = response.status, build_message(response)
    names = {BOT_MANAGER.name, *([RSL.name] if status in {402, *LICENSE_STATUSES} else [])}
    found = find_header_opt_outs(headers, Agents(""), "", "")
    refusals = [(one.signal, one.detail) for one in found if one.signal in names]
    media_type = (response.headers.get("Content-Type") or b"").decode("latin-1")

    def read() -> bytes:
        with suppress(BadBody):
            return decode_codings(
                response.body, list_header_values(headers, "Content-Encoding"), MAX_CHALLENGE_BYTES, partial=True
            )
        return response.body

    if challenge := find_challenge(status, media_type, read):
        refusals.append((BOT_MANAGER.name, challenge))
    return refusals
