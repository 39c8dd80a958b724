"""Checks a URL against the robots.txt, tdmrep.json and ai.txt of its host, which a run reads once.

robots.txt is read first; a path that it disallows is not requested, which holds for the other two files too. A host
without a readable robots.txt gets no further request (RFC 9309, section 2.3.1.4): its rows fail with the network error,
if that was the cause, else as `robots`.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlunsplit

from dataops.rights import tdmrep
from dataops.rights.ai_preferences import MAX_DETAIL_CHARS
from dataops.rights.opt_out_headers import OptOut, Signal
from dataops.rights.robots_txt import RobotsFile, is_unreachable
from tasks.download.fetch.host_pace import HostPace
from tasks.web.fetch_error import FetchError
from tasks.web.robots_cache import OriginFile, OriginFiles

logger = logging.getLogger(__name__)

_Parsed = TypeVar("_Parsed")
ROBOTS_PATH = "/robots.txt"
AI_PATH = "/ai.txt"
"""Path of Spawning's file, which has the syntax of robots.txt but concerns the use of files: `Disallow: *.jpg`.

Source: spawning.ai/ai-txt.
"""
_NETWORK = frozenset({"dns", "connect", "timeout", "tls", "private_address", "no_contact", "bad_url", "host_busy"})
_MAX_ORIGINS = 4_096
"""Maximum number of origins whose rules are in memory; those of others are read from the folder again."""
_MAX_CHARS = 8 << 20
"""Maximum length of all files whose rules are in memory; a character costs about 25 bytes in the worst case."""


@dataclass(frozen=True)
class RuleLimits:
    """The rules that are checked.

    Attributes:
        agent: our name in robots.txt and ai.txt.
        ai_agents: agents that collect training data; a robots.txt that excludes one of them gives `robots_ai_agents`.
        file_signals: signals whose file is read (tdmrep, ai_txt).
        max_crawl_delay: maximum Crawl-delay in seconds; a host with a longer one gets no requests.
    """

    agent: str
    ai_agents: tuple[str, ...] = ()
    file_signals: frozenset[Signal] = frozenset({"tdmrep", "ai_txt"})
    max_crawl_delay: float = 10.0

    def parse_robots(self, text: str) -> RobotsFile:
        """Parse a file with the syntax of robots.txt, for the agents of these limits."""
        return RobotsFile.parse(text, (self.agent, *self.ai_agents))


@dataclass
class _PolicyFile:
    """A file other than robots.txt: its path, its parser, and its content once it is read."""

    path: str
    parse: Callable[[str], Any]
    content: tuple[Any, OriginFile] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Origin:
    def __init__(self, limits: RuleLimits):
        self.lock = threading.Lock()
        self.failure: FetchError | None = None
        self.robots: tuple[RobotsFile, OriginFile] | None = None
        self.chars = 0
        self.evicted = False
        files: dict[Signal, _PolicyFile] = {
            "tdmrep": _PolicyFile(tdmrep.PATH, tdmrep.parse_tdmrep),
            "ai_txt": _PolicyFile(AI_PATH, limits.parse_robots),
        }
        self.files = {signal: file for signal, file in files.items() if signal in limits.file_signals}


class HostRules:
    """The rules of the hosts of one shard; thread-safe."""

    def __init__(self, files: OriginFiles, pace: HostPace, limits: RuleLimits):
        self._files, self._pace, self._limits = files, pace, limits
        self._origins: OrderedDict[str, _Origin] = OrderedDict()
        self._chars = 0
        self._lock = threading.Lock()

    def check(self, parts: SplitResult) -> tuple[float, list[OptOut]]:
        """Return the host's Crawl-delay in seconds, and its opt-outs for a URL.

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
        delay = robots.crawl_delay(self._limits.agent) or 0.0
        if not robots.allows(url, self._limits.agent):
            raise FetchError("robots", "robots.txt disallows it")
        if delay > self._limits.max_crawl_delay:
            raise FetchError("robots", f"robots.txt asks for a Crawl-delay of {delay:g} s")
        self._read_files(entry, origin, partial(self._pace.turn, parts.hostname or "", delay))
        found = [
            _make_opt_out("robots_ai_agents", agent, robots_file)
            for agent in robots.list_denied_agents(url, self._limits.ai_agents, self._limits.agent)
        ]
        found += [
            _make_opt_out(signal, detail, robots_file)
            for signal, detail in robots.find_opt_outs(url, self._limits.ai_agents, self._limits.agent)
        ]
        return delay, found + self._find_opt_outs(entry, parts, url)

    def _find_origin(self, origin: str) -> _Origin:
        with self._lock:
            if not (entry := self._origins.get(origin)):
                entry = self._origins[origin] = _Origin(self._limits)
            self._origins.move_to_end(origin)
            while len(self._origins) > _MAX_ORIGINS or (self._chars > _MAX_CHARS and len(self._origins) > 1):
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
            raise FetchError("robots", f"robots.txt cannot be read ({error.reason})") from None
        if is_unreachable(file.status):
            raise FetchError("robots", f"robots.txt answers {file.status}, so nothing may be asked for")
        try:
            entry.robots = self._keep(entry, self._limits.parse_robots(file.text), file)
        except Exception as error:  # the file is another's
            raise FetchError("robots", f"robots.txt cannot be read ({type(error).__name__})") from error
        return entry.robots

    def _read_files(self, entry: _Origin, origin: str, turn: "partial[AbstractContextManager[None]]") -> None:
        """Read tdmrep.json and ai.txt; an unreadable one counts as missing (TDMRep, "TDM File on the Origin").

        Two threads read one file each, so that a slow host delays a shard by one response less.
        """
        for policy in sorted(entry.files.values(), key=lambda policy: policy.lock.locked()):
            with policy.lock:
                if policy.content is None:
                    file = self._read_file(entry, origin, policy.path, turn)
                    try:
                        policy.content = self._keep(entry, policy.parse(file.text), file)
                    except Exception as error:  # kept as missing, so that it is not parsed again for each row
                        logger.warning("%s cannot be read (%s)", file.url, type(error).__name__)
                        policy.content = policy.parse(""), file

    def _read_file(
        self, entry: _Origin, origin: str, path: str, turn: "partial[AbstractContextManager[None]]"
    ) -> OriginFile:
        assert entry.robots is not None
        none = OriginFile(origin + path, 404, "", 0.0)
        if not entry.robots[0].allows(origin + path, self._limits.agent):
            return none
        try:
            return self._files.get(origin, path, turn)
        except FetchError:
            return none

    def _find_opt_outs(self, entry: _Origin, parts: SplitResult, url: str) -> list[OptOut]:
        """Return the opt-outs in tdmrep.json and ai.txt for a URL."""
        found = []
        contents = {signal: file.content for signal, file in entry.files.items()}
        if tdm := contents.get("tdmrep"):
            rule = tdmrep.find_rule(tdm[0], urlunsplit(("", "", parts.path or "/", parts.query, "")))
            if rule and rule.reserved:
                policy = f", policy {rule.policy}" if rule.policy else ""
                found.append(_make_opt_out("tdmrep", f"{rule.location}{policy}", tdm[1]))
        if ai := contents.get("ai_txt"):
            denied = ai[0].list_denied_agents(url, self._limits.ai_agents, self._limits.agent)
            if denied or not ai[0].allows(url, self._limits.agent):
                found.append(_make_opt_out("ai_txt", "Disallow", ai[1]))
        return found


def _make_opt_out(signal: Signal, detail: str, file: OriginFile) -> OptOut:
    when = datetime.fromtimestamp(file.fetched_at, UTC).isoformat(timespec="milliseconds")
    # A file of JSON may hold lone surrogates, which cannot be stored.
    storable = detail[:MAX_DETAIL_CHARS].encode("utf-8", "replace").decode()
    return OptOut(signal, storable, file.url, when)
