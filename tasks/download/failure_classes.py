"""Matches failure classes (`timeout`, `http_503`) with patterns (`http_5xx`, `too_*`)."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

PATTERN = re.compile(r"[a-z0-9_*?]+")
_DIGITS = re.compile(r"(?<=\d)x+$")


def matches_class(name: str | None, patterns: Sequence[str]) -> bool:
    """Return whether a class matches a pattern: a name, one with `*` or `?`, or one such as `http_5xx`."""
    return name is not None and any(fnmatchcase(name, _to_glob(pattern)) for pattern in patterns)


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
