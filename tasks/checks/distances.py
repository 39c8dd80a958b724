"""Compute medians, shares and distances from the counts that a dataset's manifest has."""

from collections.abc import Mapping

Tally = Mapping[str, int]


def known(counts: Tally) -> dict[str, int]:
    """Return the counts without those of rows that have no value."""
    return {value: number for value, number in counts.items() if value and number}


def median_step(counts: Tally) -> int | None:
    """Return the step that holds the median, or None if no row has a value."""
    steps = known(counts)
    half, reached = sum(steps.values()) / 2, 0
    for step in sorted(steps, key=int):
        reached += steps[step]
        if reached >= half:
            return int(step)
    return None


def kolmogorov_smirnov(a: Tally, b: Tally) -> float | None:
    """Return the largest difference (0 to 1) of the cumulative shares of two histograms; None if one is empty."""
    first, second = known(a), known(b)
    if not first or not second:
        return None
    totals, sums, largest = (sum(first.values()), sum(second.values())), [0, 0], 0.0
    for step in sorted({*first, *second}, key=int):
        sums = [sums[0] + first.get(step, 0), sums[1] + second.get(step, 0)]
        largest = max(largest, abs(sums[0] / totals[0] - sums[1] / totals[1]))
    return largest


def largest_change(
    before: Tally, after: Tally, totals: tuple[int, int], listed: int
) -> tuple[str, float, float] | None:
    """Return the value whose share changed most, with its share before and after; None if one side has no rows.

    Args:
        totals: rows before and after.
        listed: number of values to which a list of counts is cut. A value that a cut list lacks may have as many rows as
            the last one that it has. Its share is assumed to have changed as little as that allows.
    """
    if not all(totals):
        return None
    sides = list(zip((before, after), totals, strict=True))

    def range_of(name: str, counts: Tally, total: int) -> tuple[float, float]:
        if name in counts or len(counts) < listed:
            return (share := counts.get(name, 0) / total, share)
        return 0.0, min(counts.values()) / total

    changes: list[tuple[float, str, float, float]] = []
    for name in {*before, *after}:
        (low, high), (later_low, later_high) = (range_of(name, counts, total) for counts, total in sides)
        was, now = (high, later_low) if later_low > high else (low, later_high) if later_high < low else (low, low)
        changes.append((abs(now - was), name, was, now))
    if not changes:
        return None
    _, name, was, now = max(changes, key=lambda change: (change[0], change[1]))
    return name, was, now
