"""Parses /.well-known/tdmrep.json, which lists the paths of a host whose owner reserves text and data mining.

Source: TDM Reservation Protocol (W3C community group, final report of 2024), section "TDM File on the Origin Server".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

PATH = "/.well-known/tdmrep.json"
MAX_BYTES = 512_000
"""Maximum size of a file that is read, in bytes; a longer one is truncated, so it is invalid JSON and is ignored."""
_MAX_RULES = 10_000


@dataclass(frozen=True)
class TdmRule:
    """One rule of the file."""

    location: str
    """Start of a path; `*` matches any characters, and a final `$` the end of the path."""
    reserved: bool
    policy: str | None = None


def parse_tdmrep(text: str) -> list[TdmRule]:
    """Return the rules in their order. Invalid files and invalid rules are ignored, as the protocol requires."""
    try:
        items: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    items = [items] if isinstance(items, dict) else items  # many files have one rule without a list
    rules = []
    for item in items[:_MAX_RULES] if isinstance(items, list) else []:
        if not isinstance(item, dict):
            continue
        location, value = item.get("location"), item.get("tdm-reservation")
        if isinstance(location, str) and isinstance(value, int | str) and str(value).strip() in ("0", "1"):
            policy = item.get("tdm-policy")
            reserved = str(value).strip() == "1"
            rules.append(TdmRule(location.strip(), reserved, policy if isinstance(policy, str) else None))
    return rules


def find_rule(rules: Sequence[TdmRule], path: str) -> TdmRule | None:
    """Return the first rule that matches a path (with its query), or None."""
    path_bytes = unquote_to_bytes(path)
    return next((rule for rule in rules if _matches(*_compile_location(rule.location), path_bytes)), None)


@lru_cache(maxsize=2 * _MAX_RULES)
def _compile_location(location: str) -> tuple[tuple[bytes, ...], bool]:
    """Return the unescaped literals between the wildcards, and whether the path must end after the last one."""
    literals = tuple(unquote_to_bytes(literal) for literal in location.removesuffix("$").split("*"))
    return literals, location.endswith("$")


def _matches(literals: Sequence[bytes], anchored: bool, path: bytes) -> bool:
    """Match as in robots.txt (RFC 9309, section 2.2.3). Each literal is searched once, so no pattern is slow."""
    if not path.startswith(literals[0]):
        return False
    at = len(literals[0])
    if len(literals) == 1:
        return not anchored or at == len(path)
    for literal in literals[1:-1]:
        found = path.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    if anchored:
        return len(path) - at >= len(literals[-1]) and path.endswith(literals[-1])
    return path.find(literals[-1], at) >= 0
