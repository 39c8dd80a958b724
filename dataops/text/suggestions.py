"""Suggest the name that was meant where a user wrote an unknown one."""

from collections.abc import Iterable
from difflib import get_close_matches


def find_meant(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like an unknown one, whatever its case; None if none is alike."""
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower()[:100], by_lower, n=1)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?`, or an empty text if no known name is alike."""
    meant = find_meant(name, known)
    return f"; did you mean {meant}?" if meant is not None else ""
