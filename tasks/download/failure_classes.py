"""Matches failure classes (`timeout`, `http_503`) with patterns (`http_5xx`, `too_*`)."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tasks.download.harm.config import KNOWN_HARM
from tasks.web.fetch_error import is_transient

_UNCLEAR = frozenset({"lost", "other", "worker_died", "out_of_memory"})
"""Failures of this machine or of the program, not of the image or its host."""
PATTERN = re.compile(r"[a-z0-9_*?]+")
_DIGITS = re.compile(r"(?<=\d)x+$")


def matches_class(name: str | None, patterns: Sequence[str]) -> bool:
    """Return whether a class matches a pattern: a name, one with `*` or `?`, or one such as `http_5xx`.

    KNOWN_HARM matches none: its rows have no URL that could be requested again.
    """
    return name not in (None, KNOWN_HARM) and any(fnmatchcase(name, _to_glob(pattern)) for pattern in patterns)


def may_succeed_later(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a row that failed in this way may be fetched later.

    Args:
        patterns: `download.retry.classes`, which may name further classes than the temporary ones.
    """
    return is_transient(name) or name in _UNCLEAR or matches_class(name, patterns)


def check_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns. Raises: ValueError that names the first pattern that matches no class."""
    found = tuple(patterns)
    for pattern in found:
        if not PATTERN.fullmatch(pattern):
            raise ValueError(
                f"{pattern!r} is no failure class; write names such as timeout, http_429, http_5xx or too_*"
            )
    return found


def _to_glob(pattern: str) -> str:
    return _DIGITS.sub(lambda found: "[0-9]" * len(found[0]), pattern)
