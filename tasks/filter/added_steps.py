"""Define what a plugin adds to the filter stage: maps between the deduplication and the balancing of pairs.

An entry point of the group `pairmill.filter_steps` names an AddedStep. A config uses it if its table is set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from dataops import plugins
from dataops.schema import DropReason

Units = tuple[str, str, int]
"""Of an exchange: the units that write it, those that read it, and the expected bytes of a row."""


class Map(NamedTuple):
    """A map over units of the rows, then the merges of what it wrote."""

    units: Sequence[tuple[Any, ...]]
    """The inputs of each unit."""
    function: Callable[..., Any]
    """Of a Draft and a FilterStep."""
    exchanges: Sequence[str] = ()
    """Exchanges that the map writes."""
    is_ordered: bool = False
    """True if each task reads what those before it wrote."""


@dataclass(frozen=True, kw_only=True)
class AddedStep:
    """Define the maps of a plugin, which drop rows for one reason."""

    reason: str
    description: DropReason
    table: str
    """Name of its table in `[filter]`."""
    config: type[BaseModel]
    maps: Callable[[Any, Sequence[tuple[Any, ...]]], list[Map]]
    """Returns the maps of a FilterJob in their order, given its batches."""
    exchanges: Callable[[Any], Mapping[str, Units]]
    """Returns the exchanges of its maps for its table."""
    reason_tables: tuple[str, ...]
    """Exchanges with the rows that it drops, by batch (`put_dropped`)."""
    row_bytes: Callable[[Any], int]
    """Returns, for its table, the maximum bytes that all partitions together hold of one row."""
    units: Callable[[int, int], Mapping[str, int]] = lambda rows, memory_bytes: {}
    """Returns the number of its own units, by name, for a number of rows and the memory of all workers."""
    order: int = 100
    version: int = 1
    """Raise it if it drops other rows for the same config."""


def used_steps(config: BaseModel) -> list[tuple[AddedStep, Any]]:
    """Return the added steps whose table a config sets, with the table."""
    steps: list[AddedStep] = list(plugins.load("filter_steps").values())
    return [(step, table) for step in steps if (table := getattr(config, step.table)) is not None]
