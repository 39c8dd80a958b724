"""Parse robots.txt, for the crawl and the download, and ai.txt: the signals robots-ai-agents and ai-txt. Source: RFC 9309.

A file is read twice. The strict reading is that of RFC 9309. The lenient reading also accepts lines
without a colon, misspelt fields, lines that end in another way (VT, U+2028, a space before the next
field), and names at any place of a user-agent line. A URL is allowed if both readings allow it, so
leniency never permits what the standard forbids.

Lines of signals (Content-Usage, Content-Signal) belong to the user-agent lines before them but end
no group, so that they change nothing that Allow and Disallow decide. Lines such as `License` (RSL)
concern the whole host.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

from dataops.rights.path_patterns import MAX_WORK, PathPatterns, complete_pattern, count_octets, get_path, is_of_host
from dataops.rights.signals import PADDING, Agents, Finding, Signal, Statement, list_signals, signals_by_name

MAX_RULES = 50_000
"""Maximum number of rules of a file, counted for each combination of groups; a file with more allows nothing."""
_ROBOTS_PATH = "/robots.txt"
AI_PATH = "/ai.txt"
"""Path of Spawning's file, which has the syntax of robots.txt but concerns the use of files: `Disallow: *.jpg`.

Source: spawning.ai/ai-txt.
"""
_STRICT_END = re.compile(r"\r\n?|\n")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(r"[A-Za-z_-]+")  # RFC 9309, section 2.2.1; but there are names with digits
_DELAY = re.compile(r"\d{0,9}\.\d{1,9}|\d{1,9}")
_LETTERS = re.compile(r"[^a-z]+")
_MARKUP = re.compile(r"</?(?:br|p|div|li|ul|ol|pre|span|code|tr|td|body|html)\b[^<>]{0,200}>", re.IGNORECASE)
_PATH_END = re.compile(r"[\s,;]{1,9}")
_BRACKETS = "[]<>();,\0" + PADDING
_SLASHES = str.maketrans("\\\uff0f", "//", "\0")
_EVERYTHING = frozenset({"all", "any", "everything", "yes", "true"})
"""What some write for `/`."""
_Rule = tuple[bool, str]
"""True if the rule allows, and its pattern."""


class _Lines(NamedTuple):
    """How the lines of one reading are recognised."""

    line: re.Pattern[str]
    """Matches a line; its groups are the label and the value."""
    signals: dict[str, Signal]
    """The signal of each label of one, without characters other than letters."""
    lost_end: re.Pattern[str]
    """Matches the rest of a line end in files whose lines were joined."""


@cache
def _lines(*, lenient: bool) -> _Lines:
    """Return how lines are recognised: those of RFC 9309, and those of the signals that are read in robots.txt."""
    spelt = [signals_by_name(place) for place in ("robots", "robots-host")]
    signals = {_LETTERS.sub("", name): one for names in spelt for name, (one, *_) in names.items()}
    strict = [name.replace("-", "-?") for spellings in spelt for name in spellings]
    standard = "|".join(["user-agent", "allow", "disallow", "crawl-delay", *strict])
    lost_end = re.compile(rf"(?:\s|\\[rn])(?=(?:{standard.replace('user-', 'user-?')})[ \t]{{0,8}}:)", re.IGNORECASE)
    if not lenient:
        return _Lines(re.compile(rf"({standard})[ \t]*:(.*)", re.IGNORECASE), signals, lost_end)
    between = "[^A-Za-z0-9:]{0,3}"
    names = sorted((name.replace("-", between) for spellings in spelt for name in spellings), key=len, reverse=True)
    labels = "|".join(
        [rf"users?{between}agents?|user{between}agnet|allow|diss?all?ow|disallaw|diasllow|crawl{between}delay", *names]
    )
    line = re.compile(
        # Byte-order marks, as such or decoded wrongly, quotation marks, and the emphasis of Markdown
        rf"[\s\"'`*\u0080-\U0010ffff]{{0,8}}({labels})"
        r"(?:(?:\*\*|[\"'])?\s*[:=\uff1a](?:\*\*(?!\S))?|\s)(.*)",
        re.IGNORECASE,
    )
    return _Lines(line, signals, lost_end)


def is_unreachable(status: int | None) -> bool:
    """Return whether a status (None: no response) forbids all requests: 5xx, or 429 for now (section 2.3.1.4)."""
    return status is None or status == 429 or status >= 500


def decode_file(body: bytes) -> str:
    """Return the text of a robots.txt, ai.txt or tdmrep.json without a byte-order mark.

    It is UTF-8, unless a mark or NUL bytes show UTF-16 or UTF-32. Bytes that are not UTF-8 become
    lone surrogates, so that a path in another encoding still matches.
    """
    encoding = json.detect_encoding(body)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return body.decode(encoding, errors).removeprefix("\ufeff")


@dataclass
class _Reading:
    """One reading of a file."""

    groups: dict[str, list[int]] = field(default_factory=dict)
    """By agent in lower case, or "*": its groups, whose rules apply together (section 2.2.1)."""
    rules: list[list[_Rule]] = field(default_factory=list)
    """By group."""
    delays: dict[str, float] = field(default_factory=dict)
    """By agent: Crawl-delay in seconds."""
    usage_groups: dict[str, list[int]] = field(default_factory=dict)
    """By agent in lower case, "*", or "" for lines before any user-agent line, which concern all agents."""
    usage_rules: list[list["UsageRule"]] = field(default_factory=list)
    """By group of `usage_groups`."""
    of_host: dict[tuple[str, Finding], None] = field(default_factory=dict)
    """Declarations that concern the whole host, each with the name of its signal."""

    def resolve_agent(self, agent: str) -> str:
        """Return the name under which the file addresses an agent."""
        return agent if agent in self.groups else "*"

    def count_rules(self) -> int:
        """Return the number of rules, counted once for each combination of groups."""
        usage = {self.find_usage_groups(agent) for agent in (*self.groups, "*")}
        return _count(map(tuple, self.groups.values()), self.rules) + _count(usage, self.usage_rules)

    def find_usage_groups(self, agent: str) -> tuple[int, ...]:
        """Return the groups of lines of signals that concern an agent."""
        return (*self.usage_groups.get(self.resolve_agent(agent), ()), *self.usage_groups.get("", ()))


def _count(combinations: Iterable[tuple[int, ...]], rules: Sequence[Sequence[object]]) -> int:
    return sum(len(rules[group]) for groups in set(combinations) for group in groups)


class UsageRule(NamedTuple):
    """One line of a signal."""

    signal: str
    pattern: str
    finding: Finding


def _parse_usage_rules(signal: Signal, label: str, value: str) -> Iterator[UsageRule]:
    """Yield the rule in the value of a line of a signal: a statement, or a path and a statement.

    A line that states nothing on training has none: it neither forbids nor lifts a prohibition of a shorter path.
    """
    pattern = "/"
    if value.startswith(("/", "*")):
        pattern, _, value = value.replace("\t", " ").partition(" ")
    for finding in signal.find(Statement("robots", label, value)):
        yield UsageRule(signal.name, pattern, finding)


class _Rules:
    """The rules that apply to an agent: the longest match counts (section 2.2.2).

    Args:
        rules: whether each permits, its pattern, and what a line of a signal states.
        first: which of two equally long ones counts: one that permits, or one that forbids.
    """

    def __init__(self, rules: Iterable[tuple[bool, str, Finding | None]], *, first: bool):
        self._rules = sorted(set(rules), key=lambda rule: (-count_octets(rule[1]), rule[0] != first, rule[1]))
        self._permitted, self._forbidden = (
            PathPatterns(((i, rule[1]) for i, rule in enumerate(self._rules) if rule[0] == is_), permits=is_)
            for is_ in (True, False)
        )

    def estimate_work(self, path: str) -> int:
        return self._permitted.estimate_work(path) + self._forbidden.estimate_work(path)

    def find(self, path: str) -> tuple[bool, str, Finding | None] | None:
        """Return the rule that decides on a path with its query, or None."""
        ranks = [rank for rules in (self._forbidden, self._permitted) if (rank := rules.find(path)) is not None]
        return self._rules[min(ranks)] if ranks else None

    def allows(self, path: str) -> bool:
        return (found := self.find(path)) is None or found[0]


class RobotsFile:
    """The rules of one origin's robots.txt; thread-safe."""

    def __init__(self, readings: Sequence[_Reading]):
        self._readings = readings
        self._too_many_rules = sum(reading.count_rules() for reading in readings) > MAX_RULES
        self._by_agent: dict[tuple[int, str], _Rules] = {}
        self._by_groups: dict[tuple[int, ...], _Rules] = {}
        self._named: dict[tuple[str, ...], tuple[dict[str, list[_Rules]], set[_Rules]]] = {}
        self._usage: dict[tuple[int, str, tuple[int, ...]], _Rules] = {}

    @classmethod
    def parse(cls, text: str, agents: Collection[str] | None = None, host: str = "") -> "RobotsFile":
        """Parse a file; text that is not a robots.txt allows everything.

        Args:
            agents: the only agents that the result is used for; by default all agents.
            host: host of the file. Rules with the URL of another host are left out.
        """
        names = None if agents is None else frozenset(map(str.lower, agents))
        text = text.removeprefix("\ufeff")
        strict, lenient = (_parse(text, lenient, names, host.lower()) for lenient in (False, True))
        return cls([strict] if strict == lenient else [strict, lenient])

    def allows(self, url: str, agent: str) -> bool:
        """Return whether the group for the agent, else the group for all agents, allows a URL."""
        path = get_path(url)
        if path.partition("?")[0] == _ROBOTS_PATH:
            return True
        rules = self._find_rules(agent)
        return not self._is_too_slow(rules, path) and all(one.allows(path) for one in rules)

    def crawl_delay(self, agent: str) -> float | None:
        """Return the Crawl-delay in seconds, a common field that is not part of RFC 9309; None if there is none."""
        agent = agent.lower()
        delays = (reading.delays.get(reading.resolve_agent(agent)) for reading in self._readings)
        return max((delay for delay in delays if delay is not None), default=None)

    def list_denied_agents(self, url: str, agents: Iterable[str], ours: str) -> Sequence[str]:
        """Return the agents that a group of their own forbids a URL.

        The result is empty if the file has a group for our own agent, whose rules then are the owner's answer to us.
        """
        if ours.lower() in self._readings[0].groups:
            return ()
        path = get_path(url)
        found, distinct = self._find_named_rules(tuple(agents))
        if self._is_too_slow(distinct, path):
            return list(found)
        denying = {rules for rules in distinct if not rules.allows(path)}
        return [agent for agent, several in found.items() if not denying.isdisjoint(several)]

    def find_declarations(self, url: str, agents: Agents) -> list[tuple[str, Finding]]:
        """Return (signal, finding) of each declaration on training that concerns a URL.

        Lines of signals count in the group for our own agent. Without such a group they count in
        the group for all agents, and in those of the other agents.
        """
        path, ours = get_path(url), agents.own
        others = () if ours.lower() in self._readings[0].groups else agents.others
        applicable: dict[_Rules, tuple[str, str]] = {}
        for number, reading in enumerate(self._readings):
            if not reading.usage_rules or self._too_many_rules:
                continue
            for agent in (ours, *(agent for agent in others if agent.lower() in reading.groups)):
                groups = reading.find_usage_groups(agent.lower())
                for signal in list_signals("robots"):
                    suffix = "" if agent == ours else f" for {agent}"
                    applicable.setdefault(self._find_usage_rules(number, signal.name, groups), (signal.name, suffix))
        is_too_slow = sum(rules.estimate_work(path) for rules in applicable) > MAX_WORK
        found: dict[str, Finding] = {}
        for rules, (signal, suffix) in applicable.items():
            if is_too_slow and rules.estimate_work(path):
                found[signal] = Finding(False, "the file has too many wildcards for this URL")
            elif (
                (rule := rules.find(path))
                and (one := rule[2])
                and (signal not in found or (found[signal].permits and not one.permits))
            ):
                found[signal] = one._replace(detail=one.detail + suffix)
        of_host = dict.fromkeys(one for reading in self._readings for one in reading.of_host)
        return [*found.items(), *of_host]

    def _find_usage_rules(self, number: int, signal: str, groups: tuple[int, ...]) -> _Rules:
        key = (number, signal, groups)
        if key not in self._usage:
            reading = self._readings[number]
            rules = (rule for group in groups for rule in reading.usage_rules[group] if rule.signal == signal)
            self._usage[key] = _Rules(((one.finding.permits, one.pattern, one.finding) for one in rules), first=False)
        return self._usage[key]

    def _find_named_rules(self, agents: tuple[str, ...]) -> tuple[dict[str, list[_Rules]], set[_Rules]]:
        """Return the rules of each agent that the file names, and the distinct ones of them."""
        if agents not in self._named:
            names = frozenset(name for reading in self._readings for name in reading.groups)
            found = {agent: self._find_rules(agent) for agent in agents if agent.lower() in names}
            self._named[agents] = found, {rules for several in found.values() for rules in several}
        return self._named[agents]

    def _is_too_slow(self, rules: Iterable[_Rules], path: str) -> bool:
        return self._too_many_rules or sum(one.estimate_work(path) for one in rules) > MAX_WORK

    def _find_rules(self, agent: str) -> list[_Rules]:
        """Return the rules that apply to an agent in each reading."""
        found: list[_Rules] = []
        for number, reading in enumerate(self._readings):
            name = reading.resolve_agent(agent.lower())
            if (number, name) not in self._by_agent:
                groups = reading.groups.get(name, [])
                key = (number, *groups)
                if key not in self._by_groups:
                    rules = [] if self._too_many_rules else [rule for group in groups for rule in reading.rules[group]]
                    self._by_groups[key] = _Rules(((*rule, None) for rule in rules), first=True)
                self._by_agent[number, name] = self._by_groups[key]
            found.append(self._by_agent[number, name])
        return found


def _parse(text: str, lenient: bool, agents: frozenset[str] | None, host: str) -> _Reading:
    """Return a reading. A group ends at a user-agent line after a rule; other lines do not end it (section 2.2.4).

    A Crawl-delay or a line of a signal concerns the user-agent lines just before it, although it does not end their group.
    """
    lines = _lines(lenient=lenient)
    reading, addressed, delayed, concerned = _Reading(), set[str](), set[str](), set[str]()
    rules: list[_Rule] | None = None
    usage: list[UsageRule] | None = None
    after_delay = is_grouped = False
    for line in _split_lines(text, lenient):
        match = lines.line.match(line if lenient else line.lstrip(" \t"))
        if not match:
            continue
        label, value = match[1].lower(), match[2].strip(PADDING if lenient else None)
        signal = lines.signals.get(_LETTERS.sub("", label))
        kind = "" if signal else label[0]
        if kind == "u":
            names = _read_names(value, lenient)
            if not value and not lenient:
                continue  # not a line of the standard; other text is the name of nobody, as in Google's parser
            if rules is not None:
                addressed, rules = set(), None
            if after_delay or not addressed:
                delayed = set()
            if usage is not None or not addressed:
                concerned = set()
            after_delay, usage, is_grouped = False, None, True
            names = {name for name in names if agents is None or name == "*" or name in agents}
            addressed |= names
            delayed |= names
            concerned |= names
            for name in names:
                reading.groups.setdefault(name, [])
        elif kind == "c":
            after_delay = True
            if delay := _DELAY.match(value):
                for name in delayed:
                    reading.delays[name] = max(float(delay[0]), reading.delays.get(name, 0.0))
        elif signal and "robots-host" in signal.reads:
            reading.of_host |= {(signal.name, one): None for one in signal.find(Statement("robots-host", label, value))}
        elif signal:
            if usage is None:
                usage = []
                for agent in concerned if is_grouped else {""}:
                    reading.usage_groups.setdefault(agent, []).append(len(reading.usage_rules))
                reading.usage_rules.append(usage)
            usage += _parse_usage_rules(signal, label, value)
        else:
            if rules is None:
                rules = []
                if addressed:
                    for name in addressed:
                        reading.groups[name].append(len(reading.rules))
                    reading.rules.append(rules)
            if value and addressed and kind == "a" and is_of_host(value, host):
                rules.append((True, value))
            elif value and addressed and kind == "d":
                paths = _list_paths(value, host) if lenient else [value]
                rules += ((False, complete_pattern(path)) for path in paths if is_of_host(path, host))
    return reading


def _split_lines(text: str, lenient: bool) -> Iterator[str]:
    """Yield the lines without their comments."""
    for line in _MARKUP.sub("\n", text).splitlines() if lenient else _STRICT_END.split(text):
        content = line.partition("#")[0]
        if lenient and ":" in content:
            yield from _lines(lenient=True).lost_end.split(content)
        elif content:
            yield content


def _list_paths(value: str, host: str) -> list[str]:
    """Return the paths that people mean by the value of a Disallow line, which may be several, or no path at all."""
    value = value.translate(_SLASHES).strip(_BRACKETS)
    parts = [part.strip(_BRACKETS) for part in _PATH_END.split(value)]
    parts = [part for part in parts if part] or [value]
    if not all(part.startswith(("/", "*", ".")) for part in parts):
        parts = [value]
    return [_complete_path(part, host) for part in parts if part]


def _complete_path(path: str, host: str) -> str:
    if path.lower() in _EVERYTHING:
        return "/"
    without = path.removeprefix("//")
    if host and (without == host or without.lower().startswith(f"{host}/")):
        return without[len(host) :] or "/"
    return path.removeprefix(".") if path.startswith("./") else path


def _read_names(value: str, lenient: bool) -> set[str]:
    """Return the names in a user-agent line in lower case; "*" is all agents.

    The strict reading takes the start of the value, so that `GPTBot/1.0` and `GPTBot*` are GPTBot;
    the lenient one takes all names in it.
    """
    if _TOKEN.fullmatch(value) and not (lenient and value.lower() in _EVERYTHING):
        return {value.lower()}
    names = {match[0].lower() for name in (_NAME, _TOKEN) if (match := name.match(value))}
    if lenient:
        names |= {name.lower() for name in _NAME.findall(value)}
    words = set(_PATH_END.split(value.lower())) if lenient else set()
    is_all = (
        not words.isdisjoint({"*", *_EVERYTHING})
        or value == "*"
        or re.match(r"\*\s", value)
        or (lenient and "*" in value and not names)
    )
    return names | {"*"} if is_all else names


def find_denied_agents(statement: Statement) -> Iterator[Finding]:
    """Yield each agent that collects training data and that a robots.txt excludes from a URL by name."""
    own, others = statement.agents or Agents("")
    for agent in statement.value.list_denied_agents(statement.url, others, own):
        yield Finding(False, agent)


def find_in_ai_txt(statement: Statement) -> Iterator[Finding]:
    """Yield whether ai.txt excludes us, or one of the agents that collect training data, from a URL."""
    own, others = statement.agents or Agents("")
    if statement.value.list_denied_agents(statement.url, others, own) or not statement.value.allows(statement.url, own):
        yield Finding(False, "Disallow")


ROBOTS_AI_AGENTS = Signal(name="robots-ai-agents", reads={"robots-agents": ()}, find=find_denied_agents, order=30)
AI_TXT = Signal(
    name="ai-txt",
    reads={"file": (AI_PATH,)},
    find=find_in_ai_txt,
    parse=lambda text, agents, url: RobotsFile.parse(text, (agents.own, *agents.others), urlsplit(url).hostname or ""),
    order=41,
)
