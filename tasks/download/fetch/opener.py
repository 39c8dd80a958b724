"""The safe, polite fetch that is put under urllib's own seam, and so under img2dataset's downloader.

`SafeOpener` takes the place of urllib's opener (urllib.request.install_opener). Of the whole urllib it keeps only the
call: there are no handlers for files, ftp or data, no proxies, no cookies, no credentials. Each request, and each of the
at most MAX_REDIRECTS redirects that it is sent on,

- asks first what the host says of it (tasks.download.fetch.host_rules), and waits for its turn at the host (tasks.download.fetch.host_pace);
- goes over a connection to an address that was checked, with a deadline for the whole and caps (tasks.web.request);
- stops before the body where the headers forbid the use, and is thrown away where the bytes do (dataops.rights.opt_outs).

Failures are FetchError, whose text starts with a stable class: img2dataset writes that text into `error_message`.
"""

import http.client
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from typing import Any
from urllib.request import OpenerDirector, Request

from dataops.images.decode import KINDS, sniff
from dataops.rights.mining_markers import find_mining_markers
from dataops.rights.opt_outs import SIGNALS, OptOut, Signal, find_header_opt_outs
from tasks.download.fetch.host_pace import HostPace
from tasks.download.fetch.host_rules import HostRules
from tasks.download.fetch.originals import Original, Originals
from tasks.web.request import (
    MAX_REDIRECTS,
    REDIRECTS,
    FetchError,
    HttpClient,
    parse_retry_seconds,
    read_body,
    resolve_redirect,
    split_url,
    translate_errors,
)


@dataclass(frozen=True)
class FetchLimits:
    """What one request may take.

    Attributes:
        timeout: seconds for the whole request, redirects included; waiting for a turn does not count.
        max_bytes: of the body, on the wire.
        agent_token: the name that X-Robots-Tag headers may address.
        disallowed: X-Robots-Tag directives that forbid the use.
        opt_out: the signals that do; the others are only recorded.
    """

    timeout: float
    max_bytes: int
    agent_token: str
    disallowed: frozenset[str]
    opt_out: frozenset[Signal] = frozenset(SIGNALS)


@dataclass
class Evidence:
    """What a server said about one url, the last time that it was asked."""

    fetched_at: str = ""
    """ISO 8601, UTC; empty where it was not asked."""
    http_status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    opt_out: tuple[OptOut, ...] = ()
    bytes: int | None = None


class Fetched(io.BytesIO):
    """A whole body, with the response's headers: what img2dataset reads of a response."""

    def __init__(self, body: bytes, headers: Message):
        super().__init__(body)
        self.headers = headers


class SafeOpener(OpenerDirector):
    """An opener for one shard; safe to use from many threads. `evidence` is by url as it was asked for.

    Args:
        originals: pictures of earlier runs, of which only what changed is fetched.
    """

    def __init__(
        self,
        limits: FetchLimits,
        wire: HttpClient,
        rules: HostRules,
        pace: HostPace,
        originals: Originals | None = None,
    ):
        super().__init__()
        self.limits, self.wire, self.rules, self.pace, self.originals = limits, wire, rules, pace, originals
        self.evidence: dict[str, Evidence] = {}
        self._final: dict[str, FetchError] = {}  # failures that another try, at once, cannot mend

    def refuse(self, urls: Iterable[str], reason: str, detail: str) -> None:
        """Fail for these addresses without asking anybody."""
        self._final |= {url: FetchError(reason, detail) for url in urls}

    def open(self, fullurl: str | Request, data: Any = None, timeout: float | None = None) -> Any:
        """Fetch a url whole; `timeout` is ignored for the limits' deadline.

        Raises: FetchError.
        """
        url = fullurl.full_url if isinstance(fullurl, Request) else fullurl
        if known := self._final.get(url):
            raise FetchError(known.reason, known.detail)
        fetch = _Fetch(self)
        try:
            return fetch.run(url)
        except FetchError as error:
            if not error.is_transient or error.reason == "timeout":  # which a later round may mend
                self._final[url] = error
            raise
        finally:
            self.evidence[url] = fetch.evidence


class _Fetch:
    """One url, followed to its end."""

    def __init__(self, opener: SafeOpener):
        self.opener, self.limits = opener, opener.limits
        self.deadline = time.monotonic() + self.limits.timeout
        self.evidence = Evidence()

    def run(self, url: str) -> Fetched:
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._hop(url)
            if isinstance(answer, Fetched):
                return answer
            url = answer
        raise FetchError("redirect_loop", f"more than {MAX_REDIRECTS} redirects")

    def _hop(self, url: str) -> Fetched | str:
        """The body at `url`, or the url that it redirects to."""
        originals = self.opener.originals
        try:
            return self._asked(url, originals.get(url) if originals else None)
        except FetchError as error:
            if originals and not error.is_transient:
                originals.drop(url)
            raise

    def _asked(self, url: str, kept: Original | None) -> Fetched | str:
        parts = split_url(url)
        self._note(final_url=url)
        waits_since = time.monotonic()
        interval, declared = self.opener.rules.check(parts)
        self._record_opt_outs(declared)
        headers = {"Accept": "image/*,*/*;q=0.5"} | (kept.validators if kept else {})
        with self.opener.pace.turn(parts.hostname or "", interval):
            self.deadline += time.monotonic() - waits_since
            self._note(fetched_at=datetime.now(UTC).isoformat(timespec="milliseconds"))
            with (
                translate_errors(self.limits.timeout),
                self.opener.wire.get(parts, self.deadline, **headers) as response,
            ):
                return self._answer(url, response, kept)

    def _answer(self, url: str, response: http.client.HTTPResponse, kept: Original | None) -> Fetched | str:
        headers, limits = response.headers, self.limits
        self._note(
            http_status=response.status,
            content_type=headers.get("Content-Type"),
            etag=headers.get("ETag", kept.etag if kept else None),
            last_modified=headers.get("Last-Modified", kept.last_modified if kept else None),
        )
        self._record_opt_outs(
            find_header_opt_outs(headers, limits.agent_token, limits.disallowed, url, self.evidence.fetched_at)
        )
        if response.status in REDIRECTS:
            return resolve_redirect(url, response)
        if response.status == 304 and kept:
            body = kept.body
        elif 200 <= response.status < 300:
            body = self._body(response)
        else:
            wait = parse_retry_seconds(headers.get("Retry-After"))
            raise FetchError(f"http_{response.status}", "the server's answer", wait)
        return self._taken(url, body, headers, new=response.status != 304)

    def _taken(self, url: str, body: bytes, headers: Message, *, new: bool) -> Fetched:
        if len(body) > self.limits.max_bytes:  # kept by a run that took more
            raise FetchError("too_large", f"over {self.limits.max_bytes} bytes")
        kind = sniff(body)
        self._record_opt_outs(
            OptOut(signal, detail, url, self.evidence.fetched_at) for signal, detail in find_mining_markers(body, kind)
        )
        if (originals := self.opener.originals) and kind in KINDS:
            if new:
                originals.put(url, body, headers)
            else:
                originals.confirm(url)
        return Fetched(body, headers)

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        pieces, size = [], 0
        for piece in read_body(response, self.limits.max_bytes):
            pieces.append(piece)
            size += len(piece)
            self._note(bytes=size)
        return b"".join(pieces)

    def _record_opt_outs(self, found: Iterable[OptOut]) -> None:
        """Record signals, and stop where one of them forbids the use. Raises: FetchError."""
        found = [one for one in found if one not in self.evidence.opt_out]
        self._note(opt_out=(*self.evidence.opt_out, *found))
        for one in found:
            if one.signal in self.limits.opt_out:
                raise FetchError("opt_out", f"{one.signal} {one.detail}")

    def _note(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.evidence, name, value)
