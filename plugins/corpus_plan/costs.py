"""Costs of the stages that benchmarks have measured, and sizes and rates that depend on the corpus."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RAW_ROW_BYTES = 3000
"""Bytes of headers, caption and row of a sample in a raw shard."""


@dataclass(frozen=True)
class Costs:
    """Measured costs: core seconds per row by stage, stored bytes per row, and driver seconds per task.

    Those of costs.json are from benchmarks/results: scale-2026-11-25, extract-2026-11-25, download-2026-11-25 and
    pack_requests-2026-11-27.
    """

    extract: float
    filter: float
    download: float
    curate: float
    pack: dict[str, float]
    """Core seconds of a `row`, and of a `byte` that is received or sent."""
    filter_kept: float
    pairs_of_archive_byte: float
    stored: dict[str, float]
    """Stored bytes per input row, by stage."""
    search: float
    """Core seconds per row in which a takedown looks for traces: 0.7 to 2.8 us, by the table (2026-12-01, busy)."""
    part: float
    """Driver seconds per task."""


@cache
def load_costs() -> Costs:
    """Return the costs in costs.json."""
    return Costs(**json.loads(Path(__file__).with_name("costs.json").read_text(encoding="utf-8")))
