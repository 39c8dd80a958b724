"""What a host says before it is asked for an image: robots.txt, tdmrep.json and ai.txt, each read once a run.

robots.txt comes first, and what it forbids is not asked for, the other two files included. A host whose robots.txt cannot
be had is not asked for anything (RFC 9309, section 2.3.1.4): where it cannot be reached at all, its rows fail as that
failure, else as `robots`.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlunsplit

from dataops.rights import tdmrep
from dataops.rights.opt_outs import OptOut, Signal
from dataops.rights.robots_txt import RobotsFile, is_unreachable
from tasks.download.fetch.host_pace import HostPace
from tasks.web.origin_files import OriginFile, OriginFiles
from tasks.web.request import FetchError

ROBOTS_PATH = "/robots.txt"
AI_PATH = "/ai.txt"
"""Spawning's file, in the language of robots.txt but about the use of what is fetched: `Disallow: *.jpg`.

Source: spawning.ai/ai-txt.
"""
_NETWORK = frozenset({"dns", "connect", "timeout", "tls", "private_address", "no_contact", "bad_url", "host_busy"})
_MAX_ORIGINS = 4_096
"""Whose rules are kept in memory; those of the others are read again from the folder."""


@dataclass(frozen=True)
class RuleLimits:
    """Whose rules count, and how far.

    Attributes:
        agent: our name in robots.txt and ai.txt.
        ai_agents: agents that gather data to train with; a robots.txt that shuts one out speaks against our use.
        asked: the signals for which a file of its own is asked for (tdmrep, ai_txt).
        max_crawl_delay: seconds; a host that wants a longer one is left alone.
    """

    agent: str
    ai_agents: tuple[str, ...] = ()
    asked: frozenset[Signal] = frozenset({"tdmrep", "ai_txt"})
    max_crawl_delay: float = 10.0


@dataclass
class _PolicyFile:
    """A file beside robots.txt: where it lies, how it is read, and what it says."""

    path: str
    parse: Callable[[str], Any]
    said: tuple[Any, OriginFile] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Origin:
    def __init__(self, asked: Collection[Signal]):
        self.lock = threading.Lock()
        self.failure: FetchError | None = None
        self.robots: tuple[RobotsFile, OriginFile] | None = None
        others: dict[Signal, _PolicyFile] = {
            "tdmrep": _PolicyFile(tdmrep.PATH, tdmrep.parse_tdmrep),
            "ai_txt": _PolicyFile(AI_PATH, RobotsFile.parse),
        }
        self.others = {signal: other for signal, other in others.items() if signal in asked}


class HostRules:
    """The rules of the hosts of one shard; for use from many threads."""

    def __init__(self, files: OriginFiles, pace: HostPace, limits: RuleLimits):
        self._files, self._pace, self._limits = files, pace, limits
        self._origins: OrderedDict[str, _Origin] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, parts: SplitResult) -> tuple[float, list[OptOut]]:
        """Seconds that the host wants between requests, and what it says against the use of a url.

        Raises: FetchError where the url may not be asked for.
        """
        origin = f"{parts.scheme}://{parts.netloc}"
        entry, url = self._entry(origin), urlunsplit(parts)
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
        self._read_others(entry, origin, partial(self._pace.turn, parts.hostname or "", delay))
        found = [
            _opt_out("robots_ai_agents", agent, robots_file)
            for agent in robots.list_denied_agents(url, self._limits.ai_agents, self._limits.agent)
        ]
        return delay, found + self._declared(entry, parts, url)

    def _entry(self, origin: str) -> _Origin:
        with self._lock:
            if not (entry := self._origins.get(origin)):
                entry = self._origins[origin] = _Origin(self._limits.asked)
            self._origins.move_to_end(origin)
            if len(self._origins) > _MAX_ORIGINS:
                self._origins.popitem(last=False)
            return entry

    def _read_robots(self, entry: _Origin, origin: str, host: str) -> tuple[RobotsFile, OriginFile]:
        try:
            file = self._files.get(origin, ROBOTS_PATH, partial(self._pace.turn, host))
        except FetchError as error:
            if error.reason in _NETWORK:
                raise
            raise FetchError("robots", f"robots.txt cannot be read ({error.reason})") from None
        if is_unreachable(file.status):
            raise FetchError("robots", f"robots.txt answers {file.status}, so nothing may be asked for")
        entry.robots = RobotsFile.parse(file.text), file
        return entry.robots

    def _read_others(self, entry: _Origin, origin: str, turn: "partial[AbstractContextManager[None]]") -> None:
        """tdmrep.json and ai.txt, where they count; one that cannot be had is none (TDMRep, "TDM File on the Origin").

        Of two threads each reads one: a slow host costs a shard one answer less.
        """
        for other in sorted(entry.others.values(), key=lambda other: other.lock.locked()):
            with other.lock:
                if other.said is None:
                    file = self._other(entry, origin, other.path, turn)
                    other.said = other.parse(file.text), file

    def _other(
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

    def _declared(self, entry: _Origin, parts: SplitResult, url: str) -> list[OptOut]:
        found = []
        said = {signal: other.said for signal, other in entry.others.items()}
        if tdm := said.get("tdmrep"):
            rule = tdmrep.find_rule(tdm[0], urlunsplit(("", "", parts.path or "/", parts.query, "")))
            if rule and rule.reserved:
                policy = f", policy {rule.policy}" if rule.policy else ""
                found.append(_opt_out("tdmrep", f"{rule.location}{policy}", tdm[1]))
        if (ai := said.get("ai_txt")) and not ai[0].allows(url, self._limits.agent):
            found.append(_opt_out("ai_txt", "Disallow", ai[1]))
        return found


def _opt_out(signal: Signal, detail: str, file: OriginFile) -> OptOut:
    when = datetime.fromtimestamp(file.fetched_at, UTC).isoformat(timespec="milliseconds")
    return OptOut(signal, detail, file.url, when)
