"""Parse reservations of text and data mining: the signals tdm-reservation, of pages, and tdmrep, of hosts.

`/.well-known/tdmrep.json` lists the paths of a host whose owner reserves them.

Source: TDM Reservation Protocol (W3C community group, final report of 2024), w3.org/community/reports/tdmrep, sections "TDM
Header Field" and "TDM File on the Origin Server".
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from dataops.rights.directives import PADDING
from dataops.rights.path_patterns import MAX_WORK, PathPatterns, complete_pattern, get_path
from dataops.rights.signals import Finding, Signal, Statement

PATH = "/.well-known/tdmrep.json"
KEY = "tdm-reservation"
MAX_RULES = 10_000
"""Maximum number of rules of a file; a file with more, or one that is nested too deeply, reserves the whole host."""
_OBJECT = re.compile(r"\{[^{}]*\}")
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


def parse_tdmrep(text: str) -> TdmRules:
    """Return the rules in their order; invalid rules are ignored.

    The protocol lets clients ignore an invalid file. Its valid objects count here, so that a comma too many, or the cut
    at the maximum size, loses no reservation. Where an object repeats a key, each of its locations counts, and one
    reservation suffices.
    """
    try:
        try:
            content = _load(text)
        except ValueError:
            content = _load_objects(text)
    except RecursionError:
        return TdmRules([_RESERVE_ALL] if KEY in text else [])
    items = content if isinstance(content, list) else [content]  # many files have one rule without a list
    rules = TdmRules(islice((rule for item in items for rule in _read_rules(item)), MAX_RULES + 1))
    return rules if len(rules) <= MAX_RULES else TdmRules([_RESERVE_ALL])


def find_reservation(statement: Statement) -> Iterator[Finding]:
    """Yield what a header or meta `tdm-reservation` says; repeated fields may be joined by commas."""
    for value in statement.value.split(","):
        if (reserved := _parse_reservation(value)) is not None:
            yield Finding(not reserved, value.strip(PADDING))


def find_in_file(statement: Statement) -> Iterator[Finding]:
    """Yield the location and the policy of the rule of a file that decides on a URL."""
    if rule := statement.value.find(statement.url):
        yield Finding(not rule.reserved, f"{rule.location}, policy {rule.policy}" if rule.policy else rule.location)


def _parse_reservation(value: str) -> bool | None:
    """Return whether a value reserves text and data mining: 1 does, 0 does not; None if it is neither."""
    return {"1": True, "0": False}.get(value.strip(PADDING))


def _load(text: str) -> Any:
    """Parse JSON with objects as tuples of their pairs, and numbers of any length as floats."""
    return json.loads(text.lstrip("\ufeff"), parse_int=float, object_pairs_hook=tuple, strict=False)


def _load_objects(text: str) -> list[Any]:
    """Return the objects without nested ones that have the key, in a text that is not JSON."""
    found: list[Any] = []
    for match in islice((match for match in _OBJECT.finditer(text) if KEY in match[0]), MAX_RULES + 1):
        with suppress(ValueError):
            found.append(_load(match[0]))
    return found


def _read_rules(item: Any) -> Iterator[TdmRule]:
    if not isinstance(item, tuple):
        return
    pairs = [(name, value) for name, value in item if name in (KEY, "location", "tdm-policy")]
    flags = [_read_flag(value) for name, value in pairs if name == KEY]
    policy = next((value for name, value in pairs if name == "tdm-policy" and isinstance(value, str)), None)
    for name, value in pairs:
        if name == "location" and isinstance(value, str) and (True in flags or False in flags):
            yield TdmRule(value.strip(), True in flags, policy)


def _read_flag(value: Any) -> bool | None:
    if isinstance(value, float):
        return {1.0: True, 0.0: False}.get(value)
    return _parse_reservation(value) if isinstance(value, str) else None


TDM_RESERVATION = Signal(
    name="tdm-reservation",
    reads={"header": (KEY,), "meta": (KEY,)},
    find=find_reservation,
    drops=frozenset({"filter", "download"}),
    order=10,
)
TDMREP = Signal(
    name="tdmrep",
    reads={"file": (PATH,)},
    find=find_in_file,
    parse=lambda text, agents: parse_tdmrep(text),
    order=40,
)
