"""/.well-known/tdmrep.json: for which paths of a host its owner reserves text and data mining.

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
"""Read of one file; a longer one is no JSON when cut, and counts as none."""
_MAX_RULES = 10_000


@dataclass(frozen=True)
class TdmRule:
    """One rule of the file."""

    location: str
    """A path's beginning; `*` stands for any characters, a final `$` for the end of the path."""
    reserved: bool
    policy: str | None = None


def parse_tdmrep(text: str) -> list[TdmRule]:
    """The rules in their order. What is no such file, or no such rule, counts as not there, as the protocol demands."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = [found] if isinstance(found, dict) else found  # one rule without its list is often seen
    rules = []
    for item in found[:_MAX_RULES] if isinstance(found, list) else []:
        location, value = (
            (item.get("location"), item.get("tdm-reservation")) if isinstance(item, dict) else (None, None)
        )
        if isinstance(location, str) and isinstance(value, int | str) and str(value).strip() in ("0", "1"):
            policy = item.get("tdm-policy")
            reserved = str(value).strip() == "1"
            rules.append(TdmRule(location.strip(), reserved, policy if isinstance(policy, str) else None))
    return rules


def find_rule(rules: Sequence[TdmRule], path: str) -> TdmRule | None:
    """The rule that speaks for a path (with its query): the first that matches."""
    octets = unquote_to_bytes(path)
    return next((rule for rule in rules if _matches(*_pieces(rule.location), octets)), None)


@lru_cache(maxsize=2 * _MAX_RULES)
def _pieces(location: str) -> tuple[tuple[bytes, ...], bool]:
    """What stands between the wildcards, and whether the path must end there; without escapes, as any may be escaped."""
    return tuple(unquote_to_bytes(piece) for piece in location.removesuffix("$").split("*")), location.endswith("$")


def _matches(pieces: Sequence[bytes], anchored: bool, path: bytes) -> bool:
    """As in robots.txt (RFC 9309, section 2.2.3). Each piece is searched once: no pattern is hostile."""
    if not path.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    if len(pieces) == 1:
        return not anchored or at == len(path)
    for piece in pieces[1:-1]:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    if anchored:
        return len(path) - at >= len(pieces[-1]) and path.endswith(pieces[-1])
    return path.find(pieces[-1], at) >= 0
