"""Costs of the stages that benchmarks have measured, for stores without an earlier run of the stage."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

COSTS = Path(__file__).with_name("costs.json")
RAW_ROW_BYTES = 3000
"""Bytes of headers, caption and row of a sample in a raw shard."""


@dataclass(frozen=True)
class Assumptions:
    """Sizes and rates that no run has measured yet."""

    image_bytes: int = 25_000
    """Size of a stored image of `image_side`. Source: LAION-400M, 10 TB."""
    image_side: int = 256
    """In pixels."""
    fetched_bytes: int = 120_000
    """Size of a downloaded image: 11.3 MB/s at 92 a second in docs/download-rows.md."""
    gpu_flops: float = 0.35 * 990e12
    """FLOP/s that a GPU reaches: 35% of an H100's bfloat16 peak."""


@dataclass(frozen=True)
class Costs:
    """Measured costs: core seconds per row by stage, stored bytes per row, and driver seconds per task."""

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
    part: float
    """Driver seconds per task."""
    train_flops: float
    """FLOP/s of a training step on two CPU cores."""
    kept: dict[str, float]
    """Share of the rows that a stage keeps, by stage."""
    cpu_of_row: dict[str, float]
    """CPU time of a row on two workers of one machine, by stage; that of extract for a list of pairs."""
    train_cores: int
    """Cores on which train_flops was measured."""


@cache
def load_costs() -> Costs:
    """Return the costs in costs.json."""
    return Costs(**json.loads(COSTS.read_text(encoding="utf-8")))
