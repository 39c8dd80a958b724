"""Find why a stage has to be made: the difference between its key and that of the nearest earlier snapshot."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataops.redaction import redact
from dataops.snapshot import Input, Manifest
from dataops.stages import SOURCE_NAMES, STAGES
from dataops.toml_text import format_value

LISTED = 3
"""Maximum number of inputs of one kind that a reason names."""


@dataclass(frozen=True)
class Wanted:
    """All that determines the key of a snapshot that is planned."""

    stage: str
    version: int
    config: Mapping[str, Any]
    """The fields of the key (`StageConfig.key_config`)."""
    seed: int
    inputs: Sequence[Input]
    """Known inputs; those that a planned stage makes first are missing."""
    table: str
    """The stage's table in the config file."""


def find_differences(wanted: Wanted, found: Manifest) -> list[str]:
    """Return what differs from an earlier snapshot, one line each: config values, seed, version and inputs."""
    lines = [
        f"{name}: {_show(old)} -> {_show(new)}"
        for name, old, new in _compare(found.config, wanted.config, wanted.table)
    ]
    if found.seed != wanted.seed:
        lines.append(f"seed: {found.seed} -> {wanted.seed}")
    if found.stage_version != wanted.version:
        lines.append(f"version of {wanted.stage}: {found.stage_version} -> {wanted.version}")
    return lines + list(_compare_inputs(wanted, found))


def choose_nearest(wanted: Wanted, candidates: Sequence[Manifest]) -> Manifest | None:
    """Return the earlier snapshot with the fewest differences; of equal ones, the first."""
    return min(candidates, key=lambda found: len(find_differences(wanted, found)), default=None)


def _compare(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, the old and the new value of each leaf that differs; None for a missing one."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _compare(old.get(name), new.get(name), f"{path}.{name}")
    elif _are_tables(old) and _are_tables(new) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _compare(one, other, f"{path}.{index}")
    elif old != new:
        yield path, old, new


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(inner, Mapping) for inner in value)


def _show(value: object) -> str:
    text = "not set" if value is None else format_value(_without_none(value))
    return text if len(text) <= 60 else f"{text[:60]}…"


def _without_none(value: object) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value if inner is not None] if isinstance(value, list) else value


def _compare_inputs(wanted: Wanted, found: Manifest) -> Iterator[str]:
    """Yield the inputs that are new, changed or removed, by kind."""
    for stage in dict.fromkeys(one.stage for one in wanted.inputs if one.stage in STAGES):
        # A mixture has several inputs of one stage.
        before, after = (
            {i.digest: i.key for i in inputs if i.stage == stage} for inputs in (found.inputs, wanted.inputs)
        )
        removed, new = (
            [one[digest] for digest in one.keys() - other.keys()] for one, other in ((before, after), (after, before))
        )
        if before and new:
            yield f"input {stage}: {', '.join(sorted(removed)) or 'none'} -> {', '.join(sorted(new))}"
    old, new = (
        {(one.stage, one.key): one.digest for one in inputs if one.stage not in (*STAGES, SOURCE_NAMES)}
        for inputs in (found.inputs, wanted.inputs)
    )
    names = [[one.digest for one in inputs if one.stage == SOURCE_NAMES] for inputs in (found.inputs, wanted.inputs)]
    if names[0] != names[1] and old.keys() == new.keys():
        yield "the names of the source files"
    changed = [name for name in new if name in old and old[name] != new[name]]
    for verb, names in (
        ("new", [name for name in new if name not in old]),
        ("changed", changed),
        ("removed", [name for name in old if name not in new]),
    ):
        for kind in dict.fromkeys(stage for stage, _ in names):
            listed = [redact(key) for stage, key in names if stage == kind]
            more = f" and {len(listed) - LISTED:,} more" if len(listed) > LISTED else ""
            yield f"{verb} {kind}: {', '.join(listed[:LISTED])}{more}"
