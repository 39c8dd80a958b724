"""The funnel: how many rows came into each stage, how many were kept, and why the others left."""

from collections.abc import Iterable
from typing import Any

from dataops.snapshot import Manifest
from dataops.stages import PAIR_STAGES


def funnel_rows(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Return one row per (stage, reason) for every stage over pairs, most frequent reason first.

    The order of `manifests` does not matter; a stage may be missing (of a run that was stopped early).

    Returns: dicts of `stage, input, kept, dropped, reason, share`. `input` and `kept` are the stage's and repeat in each
        of its rows; `dropped` is what left for this `reason`, `share` its part of `input` (0-1). A stage that dropped
        nothing has one row, with an empty reason.
    """
    rows: list[dict[str, Any]] = []
    by_stage = {manifest.stage: manifest for manifest in manifests}
    for manifest in (by_stage[stage] for stage in PAIR_STAGES if stage in by_stage):
        counts = manifest.counts
        reasons = sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0]))
        for reason, dropped in [(name, n) for name, n in reasons if n] or [("", 0)]:
            stage = {"stage": manifest.stage, "input": counts.input, "kept": counts.kept}
            rows.append({**stage, "dropped": dropped, "reason": reason, "share": dropped / max(counts.input, 1)})
    return rows


def funnel_stages(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Return one row per stage: `stage, input, kept, dropped` (total) and `reasons` (`{reason: rows}`, by frequency)."""
    stages: dict[str, dict[str, Any]] = {}
    for row in funnel_rows(manifests):
        empty = {"stage": row["stage"], "input": row["input"], "kept": row["kept"], "dropped": 0, "reasons": {}}
        stage = stages.setdefault(row["stage"], empty)
        stage["dropped"] += row["dropped"]
        if row["reason"]:
            stage["reasons"][row["reason"]] = row["dropped"]
    return list(stages.values())
