"""Summarises the kept and dropped pairs of a filter: slice by slice, then merged by part and over all parts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.facts import BalancedRows
from dataops.rules.urls import host
from dataops.text import tallies
from dataops.text.balance import compute_effective_number
from dataops.text.tallies import Totals, count_values
from dataops.trace.sources import number_sources

LENGTH_STEP, LENGTH_STEPS = 10, 30
"""Characters of a step of the histogram of caption lengths, and its number of steps; the last holds all longer
captions."""
LISTED = 40
"""Number of hosts and captions that are listed, most frequent first."""
EXAMPLES = 4
"""Number of captions that are listed for each drop reason."""
_CAPTION_CHARS = 200
CURVE_POINTS = 200
"""Maximum number of points of the curve over queries."""


def summarise_slice(kept: pl.DataFrame, dropped: pl.DataFrame, sources: Sequence[str] = ()) -> dict[str, object]:
    """Count the kept rows of a slice by language, length, host and caption, and pick captions for each drop reason.

    Args:
        sources: names of several sources; the kept rows, and the dropped ones by reason, are also counted by source.
    """
    captions = kept.select(caption=pl.col("caption").str.slice(0, _CAPTION_CHARS))["caption"]
    lengths = (kept["caption"].str.len_chars() // LENGTH_STEP).clip(upper_bound=LENGTH_STEPS).value_counts(name="n")
    examples = {
        str(reason): rows.bottom_k(EXAMPLES, by="uid").sort("uid")["caption"].str.slice(0, _CAPTION_CHARS).to_list()
        for (reason,), rows in dropped.select("drop_reason", "uid", "caption").group_by("drop_reason")
    }
    return {
        "languages": count_values(kept["language"].fill_null("unknown")),
        "lengths": {str(step): n for step, n in lengths.sort("caption").iter_rows()},
        "hosts": count_values(kept.select(host(pl.col("url"))).to_series().fill_null("")),
        "captions": count_values(captions),
        "sources": _count_by_source(kept, dropped, sources) if sources else {},
        "examples": dict(sorted(examples.items())),
    }


def _count_by_source(kept: pl.DataFrame, dropped: pl.DataFrame, names: Sequence[str]) -> tallies.Tally:
    """Return the number of rows by the index of the source and the drop reason, joined by a space."""
    labels = [
        rows.select(pl.format("{} {}", number_sources(rows["source"], names), reason)).to_series()
        for rows, reason in ((kept, pl.lit("")), (dropped, pl.col("drop_reason")))
    ]
    return count_values(pl.concat(labels))


def merge_slices(slices: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Merge the summaries of the slices of a part."""
    totals, examples = _merge_counts(slices)
    return {**{name: totals.first(name, tallies.PER_PART) for name in totals.by_name}, "examples": examples}


def merge_parts(parts: Iterable[Mapping[str, object]], sources: Sequence[str] = ()) -> dict[str, Any]:
    """Merge the summaries of all parts.

    Args:
        sources: names of several sources, for the rows of each as `sources`.
    """
    totals, examples = _merge_counts(parts)
    by_source = {name: {"kept": 0, "dropped": {}} for name in sources}
    for label, number in sorted(totals.by_name["sources"].items()):
        index, _, reason = label.partition(" ")
        if int(index) < len(sources):
            found = by_source[sources[int(index)]]
            found |= {"dropped": {**found["dropped"], reason: number}} if reason else {"kept": number}
    return ({"sources": by_source} if sources else {}) | {
        "languages": totals.first("languages", 1000),
        "lengths": dict(sorted(totals.by_name["lengths"].items(), key=lambda item: int(item[0]))),
        "hosts": totals.first("hosts", LISTED),
        "captions": totals.first("captions", LISTED),
        "examples": examples,
    }


def _merge_counts(summaries: Iterable[Mapping[str, Any]]) -> tuple[Totals, dict[str, list[str]]]:
    totals = Totals(("languages", "lengths", "hosts", "captions", "sources"))
    examples: dict[str, list[str]] = {}
    for summary in summaries:
        totals.add(summary)
        for reason, captions in summary["examples"].items():
            examples[reason] = (examples.get(reason, []) + captions)[:EXAMPLES]
    return totals, dict(sorted(examples.items()))


def summarise_balanced_slice(unmatched: pl.Series, kept: pl.DataFrame, pairs: int) -> BalancedRows:
    """Count the pairs of a slice before and after balancing, and pick captions that no query matches.

    Args:
        unmatched: captions that no query matches.
        kept: rows that balancing keeps, with sampling_probability, where null is 1.
        pairs: number of rows before balancing.
    """
    examples = unmatched.str.slice(0, _CAPTION_CHARS).unique().sort().head(EXAMPLES)
    expected = float(kept["sampling_probability"].cast(pl.Float64).fill_null(1).sum())
    return BalancedRows(
        pairs=pairs,
        unmatched=len(unmatched),
        kept=kept.height,
        seen=expected,
        unmatched_examples=examples.to_list(),
    )


def merge_balanced_slices(slices: Sequence[BalancedRows]) -> BalancedRows:
    """Merge results of summarise_balanced_slice."""
    return BalancedRows(
        pairs=sum(one.pairs for one in slices),
        unmatched=sum(one.unmatched for one in slices),
        kept=sum(one.kept for one in slices),
        seen=sum(one.seen for one in slices),
        unmatched_examples=list(dict.fromkeys(text for one in slices for text in one.unmatched_examples))[:LISTED],
    )


def merge_balance(
    queries: Sequence[str],
    before: NDArray[np.int64],
    after: NDArray[np.float64],
    slices: Sequence[BalancedRows],
) -> dict[str, object]:
    """Merge the summaries of balancing, and describe the distribution of captions over queries before and after it.

    Args:
        before: (Q,) number of captions that each query matches.
        after: (Q,) the same after balancing; in mode online the expected number in an epoch.
        slices: results of summarise_balanced_slice, or merged ones.

    Returns: counts, and points (rank, before, after) of the curve over the queries in order of frequency.
    """
    order = np.argsort(-before, kind="stable")
    ranks = np.unique(np.geomspace(1, max(len(before), 1), CURVE_POINTS).astype(int) - 1)[: len(before)]
    merged = merge_balanced_slices(slices)
    return {
        **merged.as_json(),
        "seen": round(merged.seen),
        "queries": len(before),
        "queries_found": int((before > 0).sum()),
        "matches_before": int(before.sum()),
        "matches_after": round(float(after.sum())),
        "effective_before": round(compute_effective_number(before), 2),
        "effective_after": round(compute_effective_number(after), 2),
        "curve": [[int(rank) + 1, int(before[order[rank]]), round(float(after[order[rank]]), 2)] for rank in ranks],
        "head": [[queries[n], int(before[n]), round(float(after[n]), 2)] for n in order[:LISTED] if before[n]],
    }
