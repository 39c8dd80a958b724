"""Names of classes of failure, and patterns over them."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

PATTERN = re.compile(r"[a-z0-9_*?]+")
_DIGITS = re.compile(r"(?<=\d)x+$")


def matches_class(name: str | None, patterns: Sequence[str]) -> bool:
    """Whether a class is one of the patterns': a name, one with `*` or `?`, or one such as `http_5xx`."""
    return name is not None and any(fnmatchcase(name, _glob(pattern)) for pattern in patterns)


def check_patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    """The patterns. Raises: ValueError that names one that no class could match."""
    found = tuple(patterns)
    for pattern in found:
        if not PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is no class of failure: names such as timeout, http_429, http_5xx or too_*")
    return found


def _glob(pattern: str) -> str:
    return _DIGITS.sub(lambda found: "[0-9]" * len(found[0]), pattern)
