"""What is said of the pairs that a filter keeps and drops: counted part by part, and added up."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataops.balance import effective_number
from dataops.filters import host

LENGTH_STEP, LENGTH_STEPS = 10, 30
"""Captions are counted by their length in steps of so many characters; the last step is all that is longer."""
LISTED = 40
"""Hosts and captions that are listed, most frequent first."""
EXAMPLES = 4
"""Captions that are shown for each reason."""
_PER_PART = 5_000
"""Of a part's hosts and captions, the most frequent, that are added up: what is frequent over all is so in some part."""
_HELD = 100_000
"""Hosts and captions that are held while they are added up, at most: the least frequent go, by half as many."""
_CAPTION_CHARS = 200
CURVE_POINTS = 200
"""Of the curve over queries."""


def describe(kept: pl.DataFrame, gone: pl.DataFrame) -> dict[str, Any]:
    """Of one part: kept rows by language, length, host and caption, and captions dropped for each reason."""
    captions = kept.select(caption=pl.col("caption").str.slice(0, _CAPTION_CHARS))["caption"]
    lengths = (kept["caption"].str.len_chars() // LENGTH_STEP).clip(upper_bound=LENGTH_STEPS)
    shown = {
        str(reason): rows.bottom_k(EXAMPLES, by="uid").sort("uid")["caption"].str.slice(0, _CAPTION_CHARS).to_list()
        for (reason,), rows in gone.select("drop_reason", "uid", "caption").group_by("drop_reason")
    }
    return {
        "languages": _counts(kept["language"].fill_null("unknown")),
        "lengths": {str(step): n for step, n in sorted(Counter(lengths.to_list()).items())},
        "hosts": _counts(kept.select(host(pl.col("url"))).to_series().fill_null("")),
        "captions": _counts(captions),
        "examples": dict(sorted(shown.items())),
    }


def merged(slices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The descriptions of the slices of a part as that of the part."""
    summed, examples = _summed(slices)
    return {
        **{name: _most(counter, _PER_PART) for name, counter in summed.items()},
        "examples": dict(sorted(examples.items())),
    }


def _summed(described: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Counter[str]], dict[str, list[str]]]:
    """Counts and examples of several parts or slices, added up."""
    summed = {name: Counter[str]() for name in ("languages", "lengths", "hosts", "captions")}
    examples: dict[str, list[str]] = {}
    for part in described:
        for name, counter in summed.items():
            counter.update(part[name])
            if len(counter) > _HELD:
                summed[name] = Counter(_most(counter, _HELD // 2))
        for reason, captions in part["examples"].items():
            examples[reason] = (examples.get(reason, []) + captions)[:EXAMPLES]
    return summed, examples


def _counts(values: pl.Series) -> dict[str, int]:
    """The most frequent values, of equally frequent ones the smallest."""
    counted = values.alias("value").value_counts(name="n")
    if counted.height > _PER_PART:  # to sort them all, of which most are there once, would take longest
        least = counted["n"].top_k(_PER_PART).min()
        more = counted.filter(pl.col("n") > least)
        rest = counted.filter(pl.col("n") == least).bottom_k(_PER_PART - more.height, by="value")
        counted = pl.concat([more, rest])
    return dict(counted.sort(pl.col("n"), "value", descending=[True, False]).iter_rows())


def add_up(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The descriptions of all parts as one."""
    summed, examples = _summed(parts)
    return {
        "languages": _most(summed["languages"], 1000),
        "lengths": {step: n for step, n in sorted(summed["lengths"].items(), key=lambda item: int(item[0]))},
        "hosts": _most(summed["hosts"], LISTED),
        "captions": _most(summed["captions"], LISTED),
        "examples": dict(sorted(examples.items())),
    }


def _most(counter: Counter[str], number: int) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:number])


def balance_facts(unmatched: pl.Series, kept: pl.DataFrame, came: int) -> dict[str, Any]:
    """Of one part: the pairs that came to balancing, those that stay and are seen, and captions without a query.

    Args:
        kept: with sampling_probability, where null is 1.
    """
    shown = unmatched.str.slice(0, _CAPTION_CHARS).unique().sort().head(EXAMPLES)
    often = float(kept["sampling_probability"].cast(pl.Float64).fill_null(1).sum())
    seen = {"pairs": came, "unmatched": len(unmatched), "kept": kept.height, "seen": often}
    return {**seen, "unmatched_examples": shown.to_list()}


def describe_balance(
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
        "effective_before": round(effective_number(before), 2),
        "effective_after": round(effective_number(after), 2),
        "curve": [
            [int(place) + 1, int(before[order[place]]), round(float(after[order[place]]), 2)] for place in places
        ],
        "head": [[queries[n], int(before[n]), round(float(after[n]), 2)] for n in order[:LISTED] if before[n]],
    }
