"""How much of a result is owed to test images that were in the training set. No torch.

The matches come as a table with the columns `uid` (of the training pair), `evaluation_set` (a task of the suite) and
`member` (the key of its image); evaluate's snapshots hold one. Source: Radford et al. 2021, section 5: accuracy over All,
Clean and Overlap; a one-tailed binomial test of Overlap with Clean's accuracy as the null hypothesis; exact 99.5%
intervals; Bonferroni's correction over the sets.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.errors import SchemaError
from dataops.formatting import format_interval, format_percent
from training.evaluation.comparison import score_images
from training.evaluation.intervals import clopper_pearson_interval

COLUMNS = ("uid", "evaluation_set", "member")
SIGNIFICANT = 0.05
RANKS = ("rank", "image_to_text_rank")
"""One of them has a table with a row an image."""


def read_matches(path: Path) -> dict[str, set[str]]:
    """The members of each evaluation set that a training image matches.

    Raises: SchemaError where the file is no such table.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SchemaError(f"{path}: cannot be read as Parquet ({error})") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise SchemaError(f"{path}: no column {', '.join(missing)}; a table of matches has {', '.join(COLUMNS)}")
    return group_by_task(table)


def group_by_task(matches: pa.Table) -> dict[str, set[str]]:
    """The members of each evaluation set, of a table with COLUMNS."""
    found: dict[str, set[str]] = {}
    for task, member in zip(matches["evaluation_set"].to_pylist(), matches["member"].to_pylist(), strict=True):
        found.setdefault(task, set()).add(member)
    return found


def contamination(predictions: Mapping[str, pa.Table], matches: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """All, Clean and Overlap of each task that asks of one image at a time.

    Returns: task, metric (top1; of retrieval image_to_text_R@1: by what one image is right or wrong), n, overlap (how many
        images), all, clean, overlap_accuracy, overlap_low, overlap_high, inflation (All - Clean), p_value, significant
        (p < 0.05), significant_corrected (p < 0.05 over the number of tested sets), unknown_members (matched, but not in
        the set). What cannot be said (no overlap, nothing clean) is None.
    """
    ranked = {task: table for task, table in predictions.items() if {*RANKS} & {*table.column_names}}
    rows = [_split(task, table, matches.get(task, set())) for task, table in ranked.items()]
    tested = sum(row["p_value"] is not None for row in rows)
    for row in rows:
        known = row["p_value"] is not None
        row["significant"] = row["p_value"] < SIGNIFICANT if known else None
        row["significant_corrected"] = row["p_value"] < SIGNIFICANT / tested if known else None
    return rows


def _split(task: str, table: pa.Table, members: set[str]) -> dict[str, Any]:
    from scipy.stats import binomtest

    metric, right = next(iter(score_images(table).items()))
    overlaps = [key in members for key in table["key"].to_pylist()]
    dirty = [int(hit) for hit, overlap in zip(right, overlaps, strict=True) if overlap]
    clean = [int(hit) for hit, overlap in zip(right, overlaps, strict=True) if not overlap]
    everything = float(right.mean())
    low, high = clopper_pearson_interval(sum(dirty), len(dirty)) if dirty else (None, None)
    clean_accuracy = sum(clean) / len(clean) if clean else None
    p_value = None
    if dirty and clean_accuracy is not None:
        p_value = float(binomtest(sum(dirty), len(dirty), clean_accuracy, alternative="greater").pvalue)
    return {
        "task": task,
        "metric": metric,
        "n": len(right),
        "overlap": len(dirty),
        "unknown_members": len(members - set(table["key"].to_pylist())),
        "all": everything,
        "clean": clean_accuracy,
        "overlap_accuracy": sum(dirty) / len(dirty) if dirty else None,
        "overlap_low": low,
        "overlap_high": high,
        "inflation": None if clean_accuracy is None else everything - clean_accuracy,
        "p_value": p_value,
    }


def format_overlap(row: Mapping[str, Any]) -> str:
    """A row of `contamination` as a sentence."""
    said = f"{row['overlap']:,} of {row['n']:,} images are in training"
    if not row["overlap"]:
        return said
    if row["clean"] is None:
        return f"{said}; no image is clean"
    tested = f"on them {format_percent(row['overlap_accuracy'])} ({format_interval(row['overlap_low'], row['overlap_high'])})"
    scores = f"{row['metric']} {format_percent(row['all'])}, {format_percent(row['clean'])} on clean images"
    return f"{said}; {scores}, {tested}, p {row['p_value']:.2g}"
