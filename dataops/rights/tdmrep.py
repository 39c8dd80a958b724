"""Parse reservations of text and data mining: the signals tdm-reservation, of pages, and tdmrep, of hosts.

`/.well-known/tdmrep.json` lists the paths of a host whose owner reserves them.

Source: TDM Reservation Protocol (W3C community group, final report of 2024), w3.org/community/reports/tdmrep, sections "TDM
Header Field" and "TDM File on the Origin Server".
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from dataops.rights.path_patterns import MAX_WORK, PathPatterns, complete_pattern, get_path, is_of_host
from dataops.rights.signals import PADDING, Finding, Signal, Statement, normalise_key, read_flag

PATH = "/.well-known/tdmrep.json"
KEY = "tdm-reservation"
MAX_RULES = 10_000
"""Maximum number of rules of a file; a file with more, or one that is nested too deeply, reserves the whole host."""
_OBJECT = re.compile(r"\{[^{}]*\}")
_HAS_KEY = re.compile(r"tdm[-_ ]?reservation", re.IGNORECASE)
_REST = re.compile(r"[\s\[\],;]*+")
_MAX_DEPTH = 20
_TOO_SLOW = "the file has too many wildcards for this URL"


@dataclass(frozen=True)
class TdmRule:
    """One rule of the file."""

    location: str
    """Start of a path; `*` matches any characters, and a final `$` the end of the path."""
    reserved: bool
    policy: str | None = None


_RESERVE_ALL = TdmRule("/", True)


class TdmRules(list[TdmRule]):
    """The rules of a file in their order, compiled for many paths."""

    @cached_property
    def patterns(self) -> tuple[PathPatterns, PathPatterns]:
        """The locations that are reserved, and those that are not; the rank is the number of the rule."""
        locations = [(i, rule.location, rule.reserved) for i, rule in enumerate(self)]
        return (
            PathPatterns(((i, complete_pattern(text)) for i, text, reserved in locations if reserved), permits=False),
            PathPatterns(((i, text) for i, text, reserved in locations if not reserved), permits=True),
        )

    def find(self, path: str) -> TdmRule | None:
        """Return the first rule that matches a path with its query, or None."""
        path = get_path(path)
        if sum(patterns.estimate_work(path) for patterns in self.patterns) > MAX_WORK:
            return TdmRule("/", True, _TOO_SLOW)
        ranks = [rank for patterns in self.patterns if (rank := patterns.find(path)) is not None]
        return self[min(ranks)] if ranks else None


def parse_tdmrep(text: str, host: str = "") -> TdmRules:
    """Return the rules in their order.

    Each object with the key counts, at any depth: in a list, alone, or in an object such as
    `{"rules": [...]}`. Where an object repeats a key, each of its locations counts, and one
    reservation suffices. A rule without a usable location concerns the whole host, and one for
    another host is left out.

    Of a file that is not JSON the readable objects count, so that a comma too many changes nothing;
    what is neither, such as the cut at the maximum size, reserves all that they do not concern. A
    page in HTML has no rules: many servers answer with one for a missing file.
    """
    text = text.lstrip("\ufeff")
    found: list[TdmRule] = []
    try:
        found += islice(_read_rules(_load(text)), MAX_RULES + 1)
    except RecursionError:
        return TdmRules([_RESERVE_ALL])
    except ValueError:
        if not _HAS_KEY.search(text) and not text.lstrip().startswith(("[", "{")):
            return TdmRules()
        is_whole, at = all(text.count(pair[0]) == text.count(pair[1]) for pair in ("[]", "{}")), 0
        for match in islice(_OBJECT.finditer(text), MAX_RULES + 1):
            is_whole, at = is_whole and bool(_REST.fullmatch(text, at, match.start())), match.end()
            try:
                found += _read_rules(_load(match[0]))
            except (ValueError, RecursionError):
                is_whole = False
        if not is_whole or not _REST.fullmatch(text, at):
            found.append(_RESERVE_ALL)
    kept = [rule for rule in found if is_of_host(rule.location, host)]
    return TdmRules(kept if len(found) <= MAX_RULES else [_RESERVE_ALL])


def find_reservation(statement: Statement) -> Iterator[Finding]:
    """Yield what a header or meta `tdm-reservation` says: 0 permits, any other value reserves.

    Repeated fields may be joined by commas; parameters may follow a semicolon.
    """
    for value in statement.value.split(","):
        answer = value.partition(";")[0]
        yield Finding(read_flag(answer) is False, answer.strip(PADDING))


def find_in_file(statement: Statement) -> Iterator[Finding]:
    """Yield the location and the policy of the rule of a file that decides on a URL."""
    if rule := statement.value.find(statement.url):  # a permission is kept with its policy
        yield Finding(not rule.reserved, f"{rule.location}, policy {rule.policy}" if rule.policy else rule.location)


def _load(text: str) -> Any:
    """Parse JSON with objects as tuples of their pairs, and numbers of any length as floats."""
    return json.loads(text, parse_int=float, object_pairs_hook=tuple, strict=False)


def _read_rules(item: object, depth: int = 0) -> Iterator[TdmRule]:
    if depth > _MAX_DEPTH:
        yield _RESERVE_ALL
    elif isinstance(item, list):
        for one in item:
            yield from _read_rules(one, depth + 1)
    elif isinstance(item, tuple):
        pairs = [(normalise_key(name), value) for name, value in item]
        flags = [read_flag(value) for name, value in pairs if name.replace("-", "") == "tdmreservation"]
        policy = next((value for name, value in pairs if name == "tdm-policy" and isinstance(value, str)), None)
        locations = [value for name, value in pairs if name == "location"]
        if flags and not locations:
            locations = ["/"]
        for location in locations if flags else ():
            for one in location if isinstance(location, list) else [location]:
                yield TdmRule(one.strip() if isinstance(one, str) else "/", set(flags) != {False}, policy)
        for _, value in pairs:
            if isinstance(value, list | tuple):
                yield from _read_rules(value, depth + 1)


TDM_RESERVATION = Signal(
    name="tdm-reservation",
    reads={
        "header": (KEY, f"x-{KEY}", "tdmreservation"),
        "meta": (KEY, f"x-{KEY}", "tdmreservation", "tdm:reservation"),
        "robots": (KEY,),
    },
    find=find_reservation,
    drops=frozenset({"filter", "download"}),
    order=10,
)
TDMREP = Signal(
    name="tdmrep",
    reads={"file": (PATH,)},
    find=find_in_file,
    parse=lambda text, agents, url: parse_tdmrep(text, urlsplit(url).hostname or ""),
    order=40,
)
