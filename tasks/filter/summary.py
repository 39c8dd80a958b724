"""What is said of the pairs that a filter keeps and drops: counted part by part, and added up."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.filters import host
from dataops.text import tallies
from dataops.text.balance import compute_effective_number
from dataops.text.tallies import Totals, count_values

LENGTH_STEP, LENGTH_STEPS = 10, 30
"""Captions are counted by their length in steps of so many characters; the last step is all that is longer."""
LISTED = 40
"""Hosts and captions that are listed, most frequent first."""
EXAMPLES = 4
"""Captions that are shown for each reason."""
_CAPTION_CHARS = 200
CURVE_POINTS = 200
"""Of the curve over queries."""


def summarise_slice(kept: pl.DataFrame, gone: pl.DataFrame) -> dict[str, Any]:
    """Of one part: kept rows by language, length, host and caption, and captions dropped for each reason."""
    captions = kept.select(caption=pl.col("caption").str.slice(0, _CAPTION_CHARS))["caption"]
    lengths = (kept["caption"].str.len_chars() // LENGTH_STEP).clip(upper_bound=LENGTH_STEPS).value_counts(name="n")
    shown = {
        str(reason): rows.bottom_k(EXAMPLES, by="uid").sort("uid")["caption"].str.slice(0, _CAPTION_CHARS).to_list()
        for (reason,), rows in gone.select("drop_reason", "uid", "caption").group_by("drop_reason")
    }
    return {
        "languages": count_values(kept["language"].fill_null("unknown")),
        "lengths": {str(step): n for step, n in lengths.sort("caption").iter_rows()},
        "hosts": count_values(kept.select(host(pl.col("url"))).to_series().fill_null("")),
        "captions": count_values(captions),
        "examples": dict(sorted(shown.items())),
    }


def merge_slices(slices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The descriptions of the slices of a part as that of the part."""
    totals, examples = _merge_counts(slices)
    return {
        **{name: totals.first(name, tallies.PER_PART) for name in totals.by_name},
        "examples": dict(sorted(examples.items())),
    }


def _merge_counts(described: Iterable[Mapping[str, Any]]) -> tuple[Totals, dict[str, list[str]]]:
    """Counts and examples of several parts or slices, added up."""
    totals = Totals(("languages", "lengths", "hosts", "captions"))
    examples: dict[str, list[str]] = {}
    for part in described:
        totals.add(part)
        for reason, captions in part["examples"].items():
            examples[reason] = (examples.get(reason, []) + captions)[:EXAMPLES]
    return totals, examples


def merge_parts(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The descriptions of all parts as one."""
    totals, examples = _merge_counts(parts)
    return {
        "languages": totals.first("languages", 1000),
        "lengths": dict(sorted(totals.by_name["lengths"].items(), key=lambda item: int(item[0]))),
        "hosts": totals.first("hosts", LISTED),
        "captions": totals.first("captions", LISTED),
        "examples": dict(sorted(examples.items())),
    }


def summarise_balanced_slice(unmatched: pl.Series, kept: pl.DataFrame, came: int) -> dict[str, Any]:
    """Of one part: the pairs that came to balancing, those that stay and are seen, and captions without a query.

    Args:
        kept: with sampling_probability, where null is 1.
    """
    shown = unmatched.str.slice(0, _CAPTION_CHARS).unique().sort().head(EXAMPLES)
    often = float(kept["sampling_probability"].cast(pl.Float64).fill_null(1).sum())
    seen = {"pairs": came, "unmatched": len(unmatched), "kept": kept.height, "seen": often}
    return {**seen, "unmatched_examples": shown.to_list()}


def merge_balance(
    queries: Sequence[str],
    before: NDArray[np.int64],
    after: NDArray[np.float64],
    parts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """How captions spread over queries, before and after balancing: numbers, and points of the head/tail curve.

    Args:
        before: captions that each query is found in.
        after: those that are left, or seen in an epoch in the mean.
        parts: what balance_facts said of each part.
    """
    order = np.argsort(-before, kind="stable")
    places = np.unique(np.geomspace(1, max(len(before), 1), CURVE_POINTS).astype(int) - 1)[: len(before)]
    examples = dict.fromkeys(caption for part in parts for caption in part["unmatched_examples"])
    return {
        **{name: round(sum(part[name] for part in parts)) for name in ("pairs", "unmatched", "kept", "seen")},
        "unmatched_examples": list(examples)[:LISTED],
        "queries": len(before),
        "queries_found": int((before > 0).sum()),
        "matches_before": int(before.sum()),
        "matches_after": round(float(after.sum())),
        "effective_before": round(compute_effective_number(before), 2),
        "effective_after": round(compute_effective_number(after), 2),
        "curve": [
            [int(place) + 1, int(before[order[place]]), round(float(after[order[place]]), 2)] for place in places
        ],
        "head": [[queries[n], int(before[n]), round(float(after[n]), 2)] for n in order[:LISTED] if before[n]],
    }
