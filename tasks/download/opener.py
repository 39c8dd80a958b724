"""Replaces urllib's opener, through which img2dataset fetches, with a safe and polite one.

`SafeOpener` has no handlers for files, ftp or data, no proxies, no cookies and no credentials. Each request, and each
of at most MAX_REDIRECTS redirects,

- is checked against the rules of the host (host_rules.py), and waits for its turn at the host (host_turns.py); if another
  task requests images from the host, the row is handed on to it;
- connects to a checked IP address only, with a deadline and size limits (tasks.web.request);
- stops before the body where the headers opt out (dataops.rights.signals) or the status asks for payment, and drops the
  image where its bytes opt out. Nothing is ever paid.

A failure is a FetchError, whose text begins with its failure class. img2dataset writes this text to `error_message`.
"""

import io
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.request import OpenerDirector, Request  # noqa: TID251  replaces it by the safe fetch

from dataops.images.kinds import KINDS, sniff
from dataops.reasons import Reason
from dataops.rights.refusals import (
    BOT_MANAGER,
    MAX_OFFER_BYTES,
    describe_price,
    offers_in_body,
)
from dataops.rights.signals import Agents, OptOut, find_header_opt_outs, find_in_image
from dataops.web.urls import find_registrable_domain
from tasks.download.config import DownloadConfig
from tasks.download.hooks import ShardHook, erased_reasons
from tasks.download.host_rules import HostRules, RuleLimits
from tasks.download.host_turns import SLOW, HostPace, PaceLimits, parse_host
from tasks.web.address_policy import AddressResolver, DnsCache, ask_resolvers, parse_connect_to, parse_resolver
from tasks.web.connection import parse_proxy
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import HostState, MachinePace, OriginFiles
from tasks.web.request import (
    MAX_REDIRECTS,
    REDIRECTS,
    HttpClient,
    Readable,
    allow_body,
    parse_retry_seconds,
    read_body,
    read_challenge,
    resolve_redirect,
    split_url,
    translate_errors,
)
from tasks.web.signing import open_signer

HANDED_ON = "handed_on"
"""Outcome of a row that a later task requests, in place of a drop reason."""
SLOW_SECONDS = 120.0
"""Time in which a worker fetches a shard of 10,000 rows, about; a host whose rows take longer, by its Crawl-delay or
because it answers slowly, gets other shards."""


@dataclass(frozen=True)
class FetchLimits:
    """Limits of one request.

    Attributes:
        timeout: seconds for the whole request with its redirects, without the wait for turns.
        max_bytes: maximum size of the response body, in bytes.
        agents: our name and those of agents that collect training data: opt-outs that address one of them count.
        opt_out: names of the signals that fail the request; the others are only recorded.
    """

    timeout: float
    max_bytes: int
    agents: Agents
    opt_out: frozenset[str]


@dataclass
class Evidence:
    """The server's answer to the last request for a URL."""

    fetched_at: str = ""
    """Time of the request, ISO 8601 in UTC; empty without a request."""
    http_status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    server: str | None = None
    """What a plugin states of the host that answered."""
    opt_out: tuple[OptOut, ...] = ()
    permissions: tuple[OptOut, ...] = ()
    """What permits training, such as a licence with its URL and digest; it lifts no opt-out."""
    bytes: int | None = None
    archive: str | None = None
    """Name of the archive that the image was taken from; None if a server answered."""
    archive_offset: int | None = None
    """Position of its record in that archive, in bytes."""


class Fetched(io.BytesIO):
    """A body with the response's headers, as img2dataset reads them."""

    def __init__(self, body: bytes, headers: Message):
        super().__init__(body)
        self.headers = headers


@dataclass(frozen=True)
class Start:
    """Where the request for a row begins that an earlier task has handed on.

    Attributes:
        url: requested instead of the row's URL.
        hops: number of redirects that led to it.
        wait: seconds of a row at its host, for which it was handed on; None: none.
    """

    url: str
    hops: int = 0
    wait: float | None = None
    opt_out: tuple[OptOut, ...] = ()
    permissions: tuple[OptOut, ...] = ()


@dataclass(frozen=True)
class Scope:
    """The hosts from which a shard may request images: those of its rows.

    Attributes:
        units: domains, and hosts after `//` (host_cut.py); None: all.
        rows: number of rows by host.
        starts: by the URL of a row.
    """

    units: frozenset[str] | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, Start] = field(default_factory=dict)

    def includes(self, url: str) -> bool:
        """Return whether this shard may request a URL."""
        host = parse_host(url)
        return (
            self.units is None or f"//{host}" in self.units or not host or find_registrable_domain(host) in self.units
        )

    def find_url(self, url: str) -> str:
        """Return the URL that is requested first for that of a row."""
        start = self.starts.get(url)
        return start.url if start else url


class HandedOn(FetchError):
    """Another task requests the row.

    Args:
        start: where that task begins.
    """

    def __init__(self, start: Start):
        super().__init__(HANDED_ON, start.url)
        self.start = start


class SafeOpener(OpenerDirector):
    """An opener for one shard; thread-safe. `evidence` is by the URL of the row.

    Args:
        hooks: what plugins do with the images.
        scope: hosts that may be requested.
    """

    def __init__(
        self,
        limits: FetchLimits,
        client: HttpClient,
        rules: HostRules,
        pace: HostPace,
        hooks: Sequence[ShardHook] = (),
        scope: Scope = Scope(),
    ):
        super().__init__()
        self.limits, self.client, self.rules, self.pace, self.hooks = limits, client, rules, pace, hooks
        self.scope = scope
        self.handed: dict[str, Start] = {}
        """Where later tasks begin with the rows that are handed on, by the URL of the row."""
        self.evidence: dict[str, Evidence] = {}
        self.pages: dict[str, list[OptOut]] = {}
        """What the pages of a URL declare by documents of terms, which are read before the URL is requested."""
        self.failures: list[Exception] = []
        """Errors of the shard, as of a full disk."""
        self._final: dict[str, FetchError] = {}  # failures that are not retried in this round

    def refuse(self, urls: Iterable[str], reason: str, detail: str) -> None:
        """Let these URLs fail without a request."""
        self._final |= {url: FetchError(reason, detail) for url in urls}

    def open(self, fullurl: str | Request, data: object = None, timeout: float | None = None) -> Any:
        """Fetch a URL. The limits' timeout holds, and `timeout` is ignored.

        Raises: FetchError.
        """
        url = fullurl.full_url if isinstance(fullurl, Request) else fullurl
        if error := self._final.get(url):
            raise FetchError(error.reason, error.detail)
        fetch = Fetch(self)
        try:
            return fetch.run(url)
        except FetchError as error:
            if isinstance(error, HandedOn):
                self.handed[url] = error.start
            if not error.is_transient or error.reason == Reason.TIMEOUT:  # a timeout is retried in a later round
                self._final[url] = error
            raise
        except sqlite3.Error as error:  # of the state of hosts, as on a full disk: the shard fails, not the row
            self.failures.append(error)
            raise
        except Exception as error:  # of a parser of the answer: the row fails, and is not requested again
            self._final[url] = FetchError(Reason.OTHER, type(error).__name__)
            raise self._final[url] from error
        finally:
            is_erased = url in self._final and self._final[url].reason in erased_reasons()
            self.evidence[url] = Evidence() if is_erased else fetch.evidence

    def close(self) -> None:
        """Close the connections that the client keeps."""
        self.client.close()


class Answer(Readable, Protocol):
    """A response of a server, or of an archive."""

    status: int


class Fetch:
    """The requests for one URL, with its redirects."""

    def __init__(self, opener: SafeOpener):
        self.opener, self.limits = opener, opener.limits
        self.deadline = time.monotonic() + self.limits.timeout
        self.budget = allow_body(self.limits.max_bytes)
        self.evidence = Evidence()
        self._sent: Mapping[str, str] | None = None  # headers of the last request

    def run(self, url: str) -> Fetched:
        waits_since = time.monotonic()
        declared = [self.opener.rules.resolve(one, one.where, of_page=True) for one in self.opener.pages.get(url, ())]
        self.deadline += time.monotonic() - waits_since
        self._record_opt_outs(declared, drop=False)
        for one in declared:
            if not one.permits:
                raise FetchError(Reason.OPT_OUT, f"{one.signal} {one.detail}, of {one.where}")
        for hook in self.opener.hooks:
            if found := hook.fetch(self, url):
                return found
        start = self.opener.scope.starts.get(url, Start(url))
        self.evidence.opt_out = (*start.opt_out, *self.evidence.opt_out)
        self.evidence.permissions = (*start.permissions, *self.evidence.permissions)
        url = start.url
        for hops in range(start.hops, MAX_REDIRECTS + 1):
            if not self.opener.scope.includes(url):
                raise HandedOn(self._start(url, hops))
            result = self._fetch(url, hops, start)
            if isinstance(result, Fetched):
                return result
            url = result
        raise FetchError(Reason.REDIRECT_LOOP, f"more than {MAX_REDIRECTS} redirects")

    def _start(self, url: str, hops: int, wait: float | None = None) -> Start:
        return Start(url, hops, wait, self.evidence.opt_out, self.evidence.permissions)

    def _fetch(self, url: str, hops: int, start: Start) -> Fetched | str:
        """Return the body of a URL, or the URL that it redirects to."""
        try:
            return self._send(url, hops, start)
        except HandedOn:
            raise
        except FetchError as error:
            for hook in () if error.is_transient else self.opener.hooks:
                hook.failed(url)
            raise

    def _send(self, url: str, hops: int, start: Start) -> Fetched | str:
        """Check the host's rules, wait for a turn, and send the request."""
        parts = split_url(url)
        self.evidence.final_url = url
        waits_since = time.monotonic()
        interval, opt_outs = self.opener.rules.check(parts)
        host, scope, pace = parts.hostname or "", self.opener.scope, self.opener.pace
        seconds = pace.answer_seconds(host)
        wait = interval if seconds < SLOW else max(interval, seconds / pace.limits.concurrency)
        if start.wait is None and wait * scope.rows.get(host, 1) > SLOW_SECONDS and scope.units is not None:
            raise HandedOn(self._start(url, hops, wait))
        self._record_opt_outs(opt_outs)
        headers = {"Accept": "image/*,*/*;q=0.5"}
        for hook in self.opener.hooks:
            headers |= hook.headers(url)
        self._sent = headers
        with pace.turn(host, interval):
            self.deadline += time.monotonic() - waits_since
            self.evidence.fetched_at = datetime.now(UTC).isoformat(timespec="milliseconds")
            with (
                translate_errors(self.limits.timeout),
                self.opener.client.get(parts, self.deadline, self.budget, **headers) as response,
            ):
                for hook in self.opener.hooks:
                    hook.answered(self.evidence, response.connection)
                return self.read_response(url, response)

    def read_response(self, url: str, response: Answer) -> Fetched | str:
        """Return the body of a response after all checks, or the URL to which it redirects.

        Raises: FetchError.
        """
        headers, limits, evidence, sent = response.headers, self.limits, self.evidence, self._sent or {}
        evidence.http_status, evidence.content_type = response.status, headers.get("Content-Type")
        evidence.etag = headers.get("ETag", sent.get("If-None-Match"))
        evidence.last_modified = headers.get("Last-Modified", sent.get("If-Modified-Since"))
        price = self._read_price(response) if response.status == 402 else ""
        if price:
            offer = OptOut(Reason.PAYMENT_REQUIRED, price, url, evidence.fetched_at)
            evidence.opt_out = (*evidence.opt_out, offer)
        found = find_header_opt_outs(headers, limits.agents, url, evidence.fetched_at)
        self._record_opt_outs(
            (self.opener.rules.resolve(one, url) for one in found),
            drop=not price,  # an offer is the more exact reason
        )
        if price:
            raise FetchError(Reason.PAYMENT_REQUIRED, price)
        is_whole = 200 <= response.status < 300 and response.status != 202  # its body is read below
        if not is_whole and (challenge := read_challenge(response, response.status)):
            self._record_opt_outs([OptOut(BOT_MANAGER.name, challenge, url, evidence.fetched_at)])
        if response.status in REDIRECTS:
            return resolve_redirect(url, response)
        if response.status == 304 and (body := self._find_stored(url)) is not None:
            pass
        elif 200 <= response.status < 300:
            body = self._read_body(response)
        else:
            wait = parse_retry_seconds(headers.get("Retry-After"))
            raise FetchError(f"http_{response.status}", "the server's answer", wait)
        return self.accept(url, body, headers, new=response.status != 304)

    def _find_stored(self, url: str) -> bytes | None:
        return next((body for hook in self.opener.hooks if (body := hook.stored(url)) is not None), None)

    def accept(self, url: str, body: bytes, headers: Message, *, new: bool = False) -> Fetched:
        """Return the bytes of an image after all checks of its bytes.

        Args:
            new: whether a host sent them.

        Raises: FetchError.
        """
        if len(body) > self.limits.max_bytes:  # stored by a run with a higher limit
            raise FetchError(Reason.TOO_LARGE, f"over {self.limits.max_bytes} bytes")
        for hook in self.opener.hooks:
            hook.check(body)
        kind = sniff(body)
        self._record_opt_outs(
            OptOut(signal, detail, url, self.evidence.fetched_at) for signal, detail in find_in_image(body, kind or "")
        )
        for hook in self.opener.hooks if self._sent and kind in KINDS else ():
            hook.keep(url, body, headers, new=new)
        return Fetched(body, headers)

    def _read_price(self, response: Answer) -> str:
        """Return the offer of a 402 response."""
        body = b""
        if offers_in_body(response.headers):
            with suppress(FetchError, OSError):  # without its body it is still a 402
                body = b"".join(read_body(response, MAX_OFFER_BYTES, cut=True))
        return describe_price(response.headers, body)

    def _read_body(self, response: Answer) -> bytes:
        body = bytearray()
        for chunk in read_body(response, self.limits.max_bytes):
            body += chunk
            self.evidence.bytes = len(body)
        return bytes(body)

    def _record_opt_outs(self, found: Iterable[OptOut], *, drop: bool = True) -> None:
        """Record opt-outs and permissions.

        Raises: FetchError for the first opt-out whose signal drops images, if `drop`.
        """
        evidence = self.evidence
        found = [one for one in found if one not in (*evidence.opt_out, *evidence.permissions)]
        evidence.permissions = (*evidence.permissions, *(one for one in found if one.permits))
        found = [one for one in found if not one.permits]
        evidence.opt_out = (*evidence.opt_out, *found)
        for one in found:
            if drop and one.signal in self.limits.opt_out:
                raise FetchError(Reason.OPT_OUT, f"{one.signal} {one.detail}")


@lru_cache(maxsize=1)
def open_dns(folder: Path, resolvers: Sequence[str] = ()) -> DnsCache:
    """Return the cache of this process, which shares its results in a folder of the state of hosts."""
    lookup = ask_resolvers([parse_resolver(one) for one in resolvers]) if resolvers else None
    return DnsCache(lookup=lookup, shared=HostState(folder))


def make_opener(
    config: DownloadConfig,
    state: HostState,
    attempt: str = "",
    hooks: Sequence[ShardHook] = (),
    scope: Scope = Scope(),
    machine: MachinePace | None = None,
    processes: int = 1,
) -> SafeOpener:
    """Build the opener of one shard.

    Args:
        state: what the processes of this machine know of hosts.
        attempt: name of the run and the round (see OriginFiles).
        hooks: what plugins do with the images.
        scope: hosts that may be requested.
        machine: turns and pauses of this machine; by default those of `state`.
        processes: number of processes that may request images from the same hosts.

    Raises: ConfigError if the requests cannot be signed on this machine.
    """
    proxy = parse_proxy(config.proxy, os.environ.get("PAIRMILL_PROXY_PASSWORD", "")) if config.proxy else None
    place = (proxy.host, proxy.port) if proxy else None
    addresses = AddressResolver(parse_connect_to(config.connect_to), open_dns(state.folder, config.resolvers), place)
    sign = open_signer(config, is_worker=True)
    client = HttpClient(addresses, config.user_agent_header, contact=config.contact is not None, sign=sign, proxy=proxy)
    pace = HostPace(
        PaceLimits(
            concurrency=config.concurrency(processes),
            interval=1 / config.host_rate if config.host_rate else 0.0,
            max_pause=config.timeout,
            patience=config.host_patience,
        ),
        machine or MachinePace(state),
        processes,
    )
    rules = HostRules(
        OriginFiles(client, state, config.timeout, attempt),
        pace,
        RuleLimits(
            agents=config.agents,
            opt_out=frozenset(config.opt_out),
            max_crawl_delay=config.max_crawl_delay,
        ),
    )
    limits = FetchLimits(
        timeout=config.timeout,
        max_bytes=config.max_bytes,
        agents=config.agents,
        opt_out=frozenset(config.opt_out),
    )
    return SafeOpener(limits, client, rules, pace, hooks, scope)
