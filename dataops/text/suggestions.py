"""Suggest the known name that is closest to an unknown one, which is often a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches


def find_closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like an unknown one, whatever its case; None if none is alike."""
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower()[:100], by_lower, n=1)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?`, or an empty text if no known name is alike."""
    closest = find_closest(name, known)
    return f"; did you mean {closest}?" if closest is not None else ""
