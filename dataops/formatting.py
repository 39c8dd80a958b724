"""Format percentages and counts for people, in the same way on the terminal, in logs, on pages and on cards."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TypeVar

Number = TypeVar("Number", int, float)

# Suggest the known name that is closest to an unknown one, which is often a misspelt one ------------------------------


def find_closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like an unknown one, whatever its case; None if none is alike."""
    by_lower = {each.lower(): each for each in known}
    found = get_close_matches(name.lower()[:100], by_lower, n=1)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?`, or an empty text if no known name is alike."""
    closest = find_closest(name, known)
    return f"; did you mean {closest}?" if closest is not None else ""


def format_percent(share: float | None, *, decimals: int = 2, sign: str = "%", missing: str = "-") -> str:
    """Return a share (0 to 1) as a percentage, and `missing` for None."""
    return missing if share is None else f"{100 * share:.{decimals}f}{sign}"


def format_share(part: float, whole: float) -> str:
    """Return `part` as a percentage of `whole` with one decimal, and `none` where `whole` is 0."""
    return format_percent(part / whole if whole else None, decimals=1, missing="none")


def format_interval(
    low: float | None, high: float | None, *, sign: str = "%", dash: str = " – ", missing: str = "-"
) -> str:
    """Return the ends of an interval of shares (0 to 1) as percentages, and `missing` where `low` is None."""
    return missing if low is None else format_percent(low, sign=sign) + dash + format_percent(high, sign=sign)


def format_quantity(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 row`, `1,204 rows`; `plural` is by default the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def format_bytes(size: float, unit: str = "bytes") -> str:
    """Return a number of bytes in powers of ten, below 1,000 with the name `unit`: `12 bytes`, `1.5 kB`."""
    for name in (unit, "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {name}" if name == unit else f"{size:,.1f} {name}"
        size /= 1000
    return f"{size:,.1f} TB"


def rank_counts(counts: Mapping[str, Number]) -> list[tuple[str, Number]]:
    """Return what was counted with its number, the most frequent first, equally frequent ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def format_now() -> str:
    """Return the time in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def format_seconds(seconds: float) -> str:
    """Return a duration with a unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def format_counts(counts: Iterable[tuple[str, int]]) -> str:
    """Return names with their counts, in the given order: `language 1,204, too_small 673`."""
    return ", ".join(f"{name} {number:,}" for name, number in counts)
