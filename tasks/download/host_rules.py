"""Checks a URL against robots.txt and the files of signals (tdmrep.json, ai.txt) of its host, which a run reads once.

robots.txt is read first; a path that it disallows is not requested, which holds for the other files too. A host
without a readable robots.txt gets no further request (RFC 9309, section 2.3.1.4): its rows fail with the network error,
if that was the cause, else as `robots`.
"""

import logging
import threading
import time
from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlunsplit

from dataops.reasons import Reason
from dataops.rights.refusals import BOT_MANAGER
from dataops.rights.robots_txt import RobotsFile, is_unreachable
from dataops.rights.signals import (
    MAX_DETAIL_CHARS,
    Agents,
    Finding,
    OptOut,
    Signal,
    Statement,
    declare,
    list_names,
    list_signals,
    make_opt_out,
)
from tasks.download.host_turns import HostPace
from tasks.web.fetch_error import FetchError
from tasks.web.host_state import OriginFile, OriginFiles
from tasks.web.request import split_url

logger = logging.getLogger(__name__)

_Parsed = TypeVar("_Parsed")
ROBOTS_PATH = "/robots.txt"
_NETWORK = (
    *(Reason.DNS, Reason.CONNECT, Reason.TIMEOUT, Reason.TLS, Reason.PRIVATE_ADDRESS, Reason.NO_CONTACT),
    Reason.BAD_URL,
)
_MAX_ORIGINS = 4_096
"""Maximum number of origins whose rules are in memory; those of others are read from the folder again."""


_MAX_TERMS = 256
"""Maximum number of documents of terms in memory."""


@dataclass(frozen=True)
class RuleLimits:
    """The rules that are checked.

    Attributes:
        agents: our name, and those of agents that collect training data.
        opt_out: names of the signals that drop images; the file of another signal is not read.
        max_crawl_delay: maximum Crawl-delay in seconds; a host with a longer one gets no requests.
    """

    agents: Agents
    opt_out: frozenset[str] = frozenset(list_names("download"))
    max_crawl_delay: float = 10.0


@dataclass
class _PolicyFile:
    """The file of a signal, other than robots.txt, and its content once it is read."""

    signal: Signal
    path: str
    content: tuple[Any, OriginFile] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Origin:
    def __init__(self, limits: RuleLimits):
        self.lock = threading.Lock()
        self.failure: FetchError | None = None
        self.robots: tuple[RobotsFile, OriginFile] | None = None
        self.chars = 0
        self.evicted = False
        self.files = [
            _PolicyFile(signal, path)
            for signal in list_signals("file")
            for path in signal.reads["file"]
            if signal.name in limits.opt_out
        ]


class HostRules:
    """The rules of the hosts of one shard; thread-safe.

    Args:
        max_chars: maximum length of all files whose rules are in memory; a character costs about 25 bytes at worst.
    """

    def __init__(self, files: OriginFiles, pace: HostPace, limits: RuleLimits, max_chars: int = 8 << 20):
        self._files, self._pace, self._limits, self._max_chars = files, pace, limits, max_chars
        self._origins: OrderedDict[str, _Origin] = OrderedDict()
        self._chars = 0
        self._terms: OrderedDict[str, tuple[Any, OriginFile]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, parts: SplitResult) -> tuple[float, list[OptOut]]:
        """Return the host's Crawl-delay in seconds, and its opt-outs and permissions for a URL.

        Raises: FetchError when the URL must not be requested.
        """
        origin = f"{parts.scheme}://{parts.netloc}"
        entry, url = self._find_origin(origin), urlunsplit(parts)
        with entry.lock:
            if entry.failure:
                raise FetchError(entry.failure.reason, entry.failure.detail)
            try:
                robots, robots_file = entry.robots or self._read_robots(entry, origin, parts.hostname or "")
            except FetchError as error:
                entry.failure = error
                raise
        if self._refuses(robots_file):
            return 0.0, [OptOut(BOT_MANAGER.name, robots_file.refusal, robots_file.url, _format_time(robots_file))]
        agents = self._limits.agents
        delay = robots.crawl_delay(agents.own) or 0.0
        if not robots.allows(url, agents.own):
            raise FetchError(Reason.ROBOTS, "robots.txt disallows it")
        if delay > self._limits.max_crawl_delay:
            raise FetchError(Reason.ROBOTS, f"robots.txt asks for a Crawl-delay of {delay:g} s")
        self._read_files(entry, origin, partial(self._pace.turn, parts.hostname or "", delay))
        found: list[OptOut] = []
        when = _format_time(robots_file)
        for signal in list_signals("robots-agents"):
            statement = Statement("robots-agents", "", robots, agents, url)
            found += declare(signal, statement, robots_file.url, when)
        found += [make_opt_out(name, one, robots_file.url, when) for name, one in robots.find_declarations(url, agents)]
        for policy in entry.files:
            if policy.content:
                content, file = policy.content
                if isinstance(content, Finding):
                    found.append(make_opt_out(policy.signal.name, content, file.url, _format_time(file)))
                else:
                    statement = Statement("file", policy.path, content, agents, url)
                    found += declare(policy.signal, statement, file.url, _format_time(file))
        return delay, [self.resolve(one, url) for one in found]

    def export(self, origin: str) -> bytes:
        """Return what another machine must know of an origin."""
        return self._files.state.export({origin})

    def resolve(self, one: OptOut, url: str, *, of_page: bool = False) -> OptOut:
        """Return what the terms of a declaration say on a URL, if it names any: they are requested, once.

        Terms that cannot be read reserve what they concern. Those of a page are requested whatever `download.opt_out` says,
        because the page's signals are those of `filter.opt_out`.
        """
        signal = next((signal for signal in list_signals("terms") if signal.name == one.signal), None)
        if not one.terms or signal is None or not (of_page or one.signal in self._limits.opt_out):
            return one
        with self._lock:
            kept = self._terms.get(one.terms)
        if kept is None:
            kept = self._read_terms(signal, one.terms)
            with self._lock:
                self._terms[one.terms] = kept
                while len(self._terms) > _MAX_TERMS:
                    self._terms.popitem(last=False)
        content, file = kept
        if isinstance(content, Finding):
            return replace(one, detail=f"{one.detail}, {content.detail}"[:MAX_DETAIL_CHARS], terms="")
        found = declare(
            signal, Statement("terms", one.terms, content, self._limits.agents, url), file.url, _format_time(file)
        )
        return min(found, key=lambda other: other.permits, default=replace(one, terms=""))

    def _refuses(self, file: OriginFile) -> bool:
        """Return whether a bot manager has refused a file, and this counts."""
        return bool(file.refusal) and BOT_MANAGER.name in self._limits.opt_out

    def _read_terms(self, signal: Signal, url: str) -> tuple[Any, OriginFile]:
        none = OriginFile(url, 404, "", 0.0)
        try:
            parts = split_url(url)
            origin, path = f"{parts.scheme}://{parts.netloc}", urlunsplit(parts._replace(scheme="", netloc=""))
            entry = self._find_origin(origin)
            with entry.lock:
                robots, _ = entry.robots or self._read_robots(entry, origin, parts.hostname or "")
            delay = robots.crawl_delay(self._limits.agents.own) or 0.0
            if delay > self._limits.max_crawl_delay or not robots.allows(url, self._limits.agents.own):
                return Finding(False, "which robots.txt forbids to read"), none
            file = self._files.get(origin, path or "/", partial(self._pace.turn, parts.hostname or "", delay))
            if file.refusal or not 200 <= file.status < 300:
                return Finding(False, f"which answers {file.status}"), file
            return self._parse(signal, file), replace(file, text="")
        except FetchError as error:
            return Finding(False, f"which cannot be read ({error.reason})"), none

    def _find_origin(self, origin: str) -> _Origin:
        with self._lock:
            if not (entry := self._origins.get(origin)):
                entry = self._origins[origin] = _Origin(self._limits)
            self._origins.move_to_end(origin)
            while len(self._origins) > _MAX_ORIGINS or (self._chars > self._max_chars and len(self._origins) > 1):
                _, oldest = self._origins.popitem(last=False)
                oldest.evicted = True
                self._chars -= oldest.chars
            return entry

    def _keep(self, entry: _Origin, parsed: _Parsed, file: OriginFile) -> tuple[_Parsed, OriginFile]:
        """Count a file among those in memory, and return it without its text."""
        with self._lock:
            if not entry.evicted:
                entry.chars += len(file.text)
                self._chars += len(file.text)
        return parsed, replace(file, text="")

    def _read_robots(self, entry: _Origin, origin: str, host: str) -> tuple[RobotsFile, OriginFile]:
        try:
            file = self._files.get(origin, ROBOTS_PATH, partial(self._pace.turn, host))
        except FetchError as error:
            if error.reason in _NETWORK:
                raise
            raise FetchError(Reason.ROBOTS, f"robots.txt cannot be read ({error.reason})") from None
        if is_unreachable(file.status) and not self._refuses(file):
            raise FetchError(Reason.ROBOTS, f"robots.txt answers {file.status}, so nothing may be asked for")
        try:
            own, others = self._limits.agents
            entry.robots = self._keep(entry, RobotsFile.parse(file.text, (own, *others), host), file)
        except Exception as error:  # the file is another's
            raise FetchError(Reason.ROBOTS, f"robots.txt cannot be read ({type(error).__name__})") from error
        return entry.robots

    def _read_files(self, entry: _Origin, origin: str, turn: "partial[AbstractContextManager[None]]") -> None:
        """Read the other files. One that is missing or not reached has no rules; one that nobody can read forbids.

        Two threads read one file each, so that a slow host delays a shard by one response less.
        """
        for policy in sorted(entry.files, key=lambda policy: policy.lock.locked()):
            with policy.lock:
                if policy.content is None:
                    file = self._read_file(entry, origin, policy.path, turn)
                    content = file if isinstance(file, Finding) else self._parse(policy.signal, file)
                    none = OriginFile(origin + policy.path, 200, "", time.time())
                    policy.content = self._keep(entry, content, none if isinstance(file, Finding) else file)

    def _read_file(
        self, entry: _Origin, origin: str, path: str, turn: "partial[AbstractContextManager[None]]"
    ) -> OriginFile | Finding:
        assert entry.robots is not None
        none = OriginFile(origin + path, 404, "", 0.0)
        if not entry.robots[0].allows(origin + path, self._limits.agents.own):
            return none
        try:
            return self._files.get(origin, path, turn)
        except FetchError as error:
            return Finding(False, f"the file cannot be read: {error.detail}") if error.reason == "unreadable" else none

    def _parse(self, signal: Signal, file: OriginFile) -> Any:
        """Return the content of a file, or what forbids if it cannot be parsed."""
        try:
            return signal.parse(file.text, self._limits.agents, file.url) if signal.parse else file.text
        except Exception as error:  # the file is another's; it is kept, so that it is not parsed again for each row
            logger.warning("%s cannot be read (%s)", file.url, type(error).__name__)
            return Finding(False, f"the file cannot be read: {type(error).__name__}")


def _format_time(file: OriginFile) -> str:
    return datetime.fromtimestamp(file.fetched_at, UTC).isoformat(timespec="milliseconds")
