"""The snapshots that datasets were made of: those of each run that added to a dataset, and all of them as one."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from dataops.snapshot import Counts, Manifest, load_ancestors, load_manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store

Lineage = Mapping[str, Manifest]
"""Snapshots of one run by stage, as far as they are known."""
NOT_OF_ROWS = {"evaluation_pictures", "evaluation_unreadable", "balance"}
"""Facts whose numbers are not of the rows that a run adds, so that those of several runs have no sum."""


def load_lineages(store: Store, pack: Manifest) -> list[Lineage]:
    """Return the lineage of a dataset, itself included; of one into which several were packed, that of each.

    Raises: CorruptPart if a manifest is invalid.
    """
    curates = [one.key for one in pack.inputs if one.stage == "curate"]
    if len(curates) < 2:
        return [load_ancestors(store, pack)]
    found = (load_manifest(store, "curate", key) for key in curates)
    return [{"pack": pack, **(load_ancestors(store, one) if one else {})} for one in found]


def list_made(lineages: Iterable[Lineage], stage: str) -> list[Manifest]:
    """Return the snapshots of a stage, each once."""
    return list({made.key: made for lineage in lineages if (made := lineage.get(stage)) is not None}.values())


def merge_lineages(lineages: Sequence[Lineage]) -> dict[str, Manifest]:
    """Return lineages as one: of each stage the newest snapshot, with the inputs, counts and facts of all.

    Args:
        lineages: oldest first.
    """
    made = {stage: list_made(lineages, stage) for stage in PAIR_STAGES}
    return {stage: _merge(found) for stage, found in made.items() if found}


def _merge(made: Sequence[Manifest]) -> Manifest:
    if len(made) == 1:
        return made[0]
    inputs = list(dict.fromkeys(source for one in made for source in one.inputs))
    counts, facts = sum((one.counts for one in made), Counts()), reduce(_add, (one.facts for one in made))
    facts |= {name: made[-1].facts[name] for name in NOT_OF_ROWS & made[-1].facts.keys()}
    return made[-1].model_copy(update={"inputs": inputs, "counts": counts, "facts": facts})


def _add(older: Any, newer: Any) -> Any:
    """Return the sum of two facts: numbers of rows are added, also in tables and of what has a name; else the newer one."""
    if isinstance(older, dict) and isinstance(newer, dict):
        return older | {key: _add(older[key], value) if key in older else value for key, value in newer.items()}
    if type(older) is int and type(newer) is int:  # a bool is none
        return older + newer
    if isinstance(older, list) and isinstance(newer, list) and all(isinstance(one, dict) for one in (*older, *newer)):
        tables = [{one["name"]: one for one in some if "name" in one} for some in (older, newer)]
        if list(map(len, tables)) == [len(older), len(newer)]:
            return list(_add(*tables).values())
    return newer
