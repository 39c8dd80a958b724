"""Run the steps of a decision over all rows, as filter and curate make them: maps over spans of rows or partitions."""

from collections.abc import Callable, Sequence
from typing import Any

from dataops.snapshot import Draft, Record
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts
from tasks.engine.partition_tables import table_name

SMALL_ROWS = 1 << 15
"""Up to so many rows, steps run in the calling process: another one may take seconds to start."""


class PartitionStep:
    """Work of one step on one of its parts; base of the dataclasses of filter and curate."""

    function: Callable[[Draft, Any], Record]
    number: int
    """Number of the part."""
    bits: int
    """There are 2^bits partitions."""

    @property
    def id(self) -> str:
        """Name of the task, for example `by_bytes-03-00005`: a record for another number of partitions is not reused."""
        return f"{self.function.__name__}-{self.bits:02d}-{self.number:05d}"

    def partition_names(self, kind: str) -> list[str]:
        """Return the names of the scratch tables that a map over the partitions wrote."""
        return [table_name(kind, number) for number in range(1 << self.bits)]


def run(draft: Draft, step: PartitionStep) -> Record:
    """Run a step. Worker processes call this function."""
    return step.function(draft, step)


def run_steps(steps: Sequence[PartitionStep], rows: int, draft: Draft, context: Context) -> None:
    """Run the steps in workers, so that this process's memory does not grow with the rows; few rows are run here."""
    if rows > SMALL_ROWS:
        map_parts(run, steps, draft, context)
        return
    for number, step in enumerate(steps, 1):
        if not draft.done(step.id):
            draft.finish(run(draft, step))
        context.progress(number, len(steps), "")
