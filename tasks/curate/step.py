"""Define the optional steps of curate: what the stage does with the rows that it still keeps, after duplicates are found.

A step is one object, registered in `pairmill.steps`. It runs if the config has its table,
`[curate.TABLE]`, after the steps with a smaller `order`. For each raw shard it writes a result
(tasks.curate.stage.put_result): a row for each row that is kept so far, with columns to add or
replace, and `drop_reason` for rows to drop. It returns further parts and facts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataops import plugins
from dataops.config import StageConfig
from dataops.facts import CurateFacts, Facts
from dataops.schema import Column, DropReason
from dataops.snapshot import Input, Manifest, Part


@dataclass(frozen=True)
class StepOutput:
    """What a step leaves besides its results: parts of the snapshot, and facts, which the manifest has under its table."""

    parts: Sequence[Part] = ()
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True)
class Step:
    """An optional step of curate. Modules that define one are light: `run` names a function elsewhere."""

    table: str
    """Name of the step and of its config table: `[curate.scores]`."""
    config: type[StageConfig]
    run: str
    """`module:function` that writes the result of each raw shard, given the work (Work[CurateConfig]), whose context shows
    the progress of this step, and the raw shards (Sequence[RawShard]); it returns a StepOutput."""
    columns: Sequence[Column] = ()
    """All columns that a result may add. Only those that it has are in the parts of the snapshot."""
    reasons: Mapping[str, DropReason] = field(default_factory=dict)
    order: int = 100
    """Place among the steps."""
    version: int = 1
    """Number that increases whenever the result for the same config and rows changes."""
    weight: int = 16
    """Cost of a row relative to that of finding duplicates, for the progress."""
    inputs: Callable[[Any], list[Input]] = lambda config: []
    """Returns digests of what the step reads from outside the store, for its config."""
    asks_model: bool = False
    """True if it sends requests to a model, which a trial does not."""
    facts: type[Facts] = Facts
    """Model of its facts; it states the marks of text that a takedown overwrites."""
    keeps: str = ""
    """Name of the part that it writes for the next run of a dataset that grows, whose version has it as a table of this
    step's kind; in place of that of the version before."""
    describe: Callable[[Any], list[str]] = lambda facts: []
    """Returns sentences for the card of a dataset, from the step's facts."""


def describe_steps(curate: Manifest | None) -> list[str]:
    """Return what the steps of a snapshot of curate say of it, for the card of a dataset or of a model."""
    if curate is None:
        return []
    steps = [step for step in plugins.load("steps").values() if step.table in CurateFacts.of(curate).further]
    return [sentence for step in steps for sentence in step.describe(step.facts.of(curate, step.table))]


def list_steps(config: object) -> list[Step]:
    """Return the steps that a `[curate]` table (CurateConfig, or its values in a manifest) uses, in their order."""
    values = config if isinstance(config, Mapping) else vars(config)
    return [step for step in plugins.load("steps").values() if values.get(step.table) is not None]
