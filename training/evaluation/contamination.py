"""The effect of test images that were in the training set on a result. No torch.

The matches come as a table with the columns `uid` (of the training pair), `evaluation_set` (a task
of the suite) and `member` (the key of its image); evaluate's snapshots hold one. Source: Radford et
al. 2021, section 5: accuracy over All, Clean and Overlap; a one-tailed binomial test of Overlap
with Clean's accuracy as the null hypothesis; exact 99.5% intervals; Bonferroni's correction over
the sets.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dataops.formatting import format_interval, format_percent
from training.evaluation.comparison import score_images
from training.evaluation.intervals import clopper_pearson_interval

SIGNIFICANT = 0.05
RANKS = ("rank", "image_to_text_rank")
"""Columns of tables with a row an image, which have one of them."""


def group_by_task(matches: pa.Table) -> dict[str, set[str]]:
    """Return the members of each evaluation set in a table of matches."""
    found: dict[str, set[str]] = {}
    for task, member in zip(matches["evaluation_set"].to_pylist(), matches["member"].to_pylist(), strict=True):
        found.setdefault(task, set()).add(member)
    return found


def contamination(predictions: Mapping[str, pa.Table], matches: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """Compute accuracy over All, Clean and Overlap of each task that ranks one image at a time.

    Returns: task, metric (top1; for retrieval image_to_text_R_at_1: whether one image is right), n, overlap (number of
        images), all, clean, overlap_accuracy, overlap_low, overlap_high, inflation (All - Clean), p_value, significant
        (p < 0.05), significant_corrected (p < 0.05 over the number of tested sets), unknown_members (matched, but not
        in the set). A value that is undefined (no overlap, nothing clean) is None.
    """
    ranked = {task: table for task, table in predictions.items() if {*RANKS} & {*table.column_names}}
    rows = [_split(task, table, matches.get(task, set())) for task, table in ranked.items()]
    tested = sum(row["p_value"] is not None for row in rows)
    for row in rows:
        is_tested = row["p_value"] is not None
        row["significant"] = row["p_value"] < SIGNIFICANT if is_tested else None
        row["significant_corrected"] = row["p_value"] < SIGNIFICANT / tested if is_tested else None
    return rows


def _split(task: str, table: pa.Table, members: set[str]) -> dict[str, Any]:
    from scipy.special import bdtrc

    metric, right = next(iter(score_images(table).items()))
    keys = table["key"].to_pylist()
    overlaps = [key in members for key in keys]
    overlapping = [int(hit) for hit, overlap in zip(right, overlaps, strict=True) if overlap]
    clean = [int(hit) for hit, overlap in zip(right, overlaps, strict=True) if not overlap]
    everything = float(right.mean())
    low, high = clopper_pearson_interval(sum(overlapping), len(overlapping)) if overlapping else (None, None)
    clean_accuracy = sum(clean) / len(clean) if clean else None
    p_value = None
    if overlapping and clean_accuracy is not None:
        p_value = float(bdtrc(sum(overlapping) - 1, len(overlapping), clean_accuracy))
    return {
        "task": task,
        "metric": metric,
        "n": len(right),
        "overlap": len(overlapping),
        "unknown_members": len(members - {*keys}),
        "all": everything,
        "clean": clean_accuracy,
        "overlap_accuracy": sum(overlapping) / len(overlapping) if overlapping else None,
        "overlap_low": low,
        "overlap_high": high,
        "inflation": None if clean_accuracy is None else everything - clean_accuracy,
        "p_value": p_value,
    }


def format_overlap(row: Mapping[str, Any]) -> str:
    """Format a row of `contamination` as a sentence."""
    counts = f"{row['overlap']:,} of {row['n']:,} images are in training"
    if not row["overlap"]:
        return counts
    if row["clean"] is None:
        return f"{counts}; no image is clean"
    interval = format_interval(row["overlap_low"], row["overlap_high"])
    tested = f"on them {format_percent(row['overlap_accuracy'])} ({interval})"
    scores = f"{row['metric']} {format_percent(row['all'])}, {format_percent(row['clean'])} on clean images"
    return f"{counts}; {scores}, {tested}, p {row['p_value']:.2g}"
