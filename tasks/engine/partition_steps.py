"""What the steps of a global decision have in common, in filter and in curate: maps whose parts are slices or ranges."""

from collections.abc import Callable, Sequence
from typing import Any

from dataops.snapshot import Draft, Record
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts
from tasks.engine.partition_tables import table_name

SMALL_ROWS = 1 << 15
"""So many are decided among in the process that maps: another may take seconds to start."""


class PartitionStep:
    """One step's work on one of its parts: what filter's and curate's dataclasses share."""

    function: Callable[[Draft, Any], Record]
    number: int
    """Of the part."""
    bits: int
    """There are 2^bits ranges."""

    @property
    def id(self) -> str:
        """With the number of ranges, for example `by_bytes-03-00005`: what was cut into others is no part of this."""
        return f"{self.function.__name__}-{self.bits:02d}-{self.number:05d}"

    def partition_names(self, kind: str) -> list[str]:
        """Names of the scratch tables that a map over the ranges wrote."""
        return [table_name(kind, number) for number in range(1 << self.bits)]


def run(draft: Draft, step: PartitionStep) -> Record:
    """Do a step: what the worker processes call."""
    return step.function(draft, step)


def run_steps(steps: Sequence[PartitionStep], rows: int, draft: Draft, context: Context) -> None:
    """Map, where rows are not few, for this process is to hold no more of many rows than of few."""
    if rows > SMALL_ROWS:
        map_parts(run, steps, draft, context)
        return
    for step in steps:
        if not draft.done(step.id):
            draft.finish(run(draft, step))
