"""Define a stage, and find or make its snapshot.

A stage is a value with a name, a version and a function `make`. This module has what all stages share: the key, reuse, the
conservation of rows and the manifest.
"""

import logging
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from dataops.config import StageConfig
from dataops.errors import ContractError, CorruptPart
from dataops.facts import Facts
from dataops.formats import RELEASE
from dataops.formatting import format_now
from dataops.home import CHECKOUT
from dataops.snapshot import (
    Counts,
    Draft,
    Input,
    Manifest,
    Part,
    Record,
    content_digest,
    find_manifest,
    load_manifest,
    snapshot_key,
)
from dataops.store import Store
from tasks.engine.context import Context
from tasks.engine.lease import HeldLease, hold_lease

logger = logging.getLogger(__name__)

CODE = ("dataops", "flows", "infra", "plugins", "tasks", "training", "constraints.txt", "pyproject.toml")
"""Files and folders of the checkout on which the result of a run may depend."""

ConfigT = TypeVar("ConfigT", bound=StageConfig)


@dataclass(frozen=True)
class Work(Generic[ConfigT]):
    """One snapshot to make."""

    config: ConfigT
    seed: int
    inputs: dict[str, Manifest]
    """Snapshots that it reads, by stage."""
    draft: Draft
    context: Context
    made_of: tuple[Input, ...] = ()
    """All inputs of the key, also those from outside the store and the takedown requests."""
    upstream: tuple[Manifest, ...] = ()
    """The snapshots of the plan, in its order: several of one stage where packs are merged."""
    older: Mapping[int, str] = field(default_factory=dict)
    """As in Plan."""


@dataclass(frozen=True)
class StageOutput:
    """Result of `make`: the parts that it wrote, with counts and facts for the manifest."""

    parts: list[Part]
    counts: Counts = field(default_factory=Counts)
    facts: Facts = field(default_factory=Facts)
    mlflow_run_id: str | None = None


@dataclass(frozen=True)
class Stage(Generic[ConfigT]):
    """One stage of the pipeline."""

    name: str
    version: int
    """Number that increases whenever the output for the same config and inputs changes."""
    accepts: frozenset[int] = field(default=frozenset(), kw_only=True)
    """Older versions whose output is still used where it exists, although today's would differ: an upgrade makes it again
    only with --force."""
    make: Callable[[Work[ConfigT]], StageOutput]
    external_inputs: Callable[[ConfigT], list[Input]] = lambda config: []
    """Returns digests of what it reads from outside the store (source files, an evaluation suite)."""
    config_inputs: Callable[[ConfigT, Store], list[Input]] = lambda config, store: []
    """Returns the snapshots of the store that the config names (datasets of a mixture)."""
    store_inputs: Callable[[Store, Callable[[list[Input]], str]], list[Input]] = lambda store, key_of: []
    """Returns inputs that are recorded in the store itself (takedown requests); they enter the key. It gets a function that
    returns the key with some such inputs."""
    still_valid: Callable[[Manifest, ConfigT, Context], bool] = lambda manifest, config, context: True
    """Returns whether what a complete snapshot made elsewhere (a registered model) still exists."""
    takes_over: Callable[[], bool] = lambda: False
    """Returns whether it takes over what an older accepted version has begun."""
    conserves_rows: bool = True
    """True if `kept + dropped == input`, by uid, is checked."""


@dataclass(frozen=True)
class Plan(Generic[ConfigT]):
    """The key of a snapshot, and what it is computed from."""

    stage: Stage[ConfigT]
    config: ConfigT
    seed: int
    upstream: tuple[Manifest, ...]
    inputs: tuple[Input, ...]
    key: str
    older: Mapping[int, str] = field(default_factory=dict)
    """Keys that the snapshot has with the older versions that the stage accepts and takes over, newest first; none with
    --force."""


def plan(
    stage: Stage[ConfigT],
    config: ConfigT,
    seed: int,
    upstream: Sequence[Manifest],
    store: Store | None = None,
    *,
    accept: bool = True,
) -> Plan[ConfigT]:
    """Digest the inputs and compute the key of the snapshot: that of a complete one of an older version that the stage
    accepts, if there is none of today's.

    Args:
        store: store of the snapshot, with the snapshots that the config names, and whose takedown requests are inputs;
            None: without any.
        accept: False: the key is that of today's version.
    """
    named = stage.config_inputs(config, store) if store is not None else []
    inputs = [manifest.as_input() for manifest in upstream] + named + stage.external_inputs(config)

    def key_of(stored: list[Input], version: int = stage.version) -> str:
        return snapshot_key(stage.name, version, config.key_config(), seed, [*inputs, *stored])

    inputs += stage.store_inputs(store, key_of) if store is not None else []
    key, older = key_of([]), dict[int, str]()
    if accept and stage.accepts and store is not None and not Draft(store, stage.name, key).is_complete():
        older = {version: key_of([], version) for version in sorted(stage.accepts, reverse=True)}
        key = next((one for one in older.values() if _is_whole(store, stage.name, one)), key)
    return Plan(stage, config, seed, tuple(upstream), tuple(inputs), key, older if stage.takes_over() else {})


def _is_whole(store: Store, stage: str, key: str) -> bool:
    try:
        return find_manifest(store, stage, key) is not None
    except CorruptPart:
        return False


def reuse(planned: Plan[Any], context: Context) -> Manifest | None:
    """Return the complete snapshot of this plan, if there is a valid one. An invalid one is deleted."""

    def valid_snapshot(verify: bool) -> Manifest | None:
        try:
            manifest = find_manifest(context.store, planned.stage.name, planned.key, verify=verify)
        except CorruptPart as error:
            logger.warning("%s", error)
            return None
        valid = manifest is not None and planned.stage.still_valid(manifest, planned.config, context)
        return manifest if valid else None

    draft = _draft(planned, context)
    if (manifest := valid_snapshot(context.verify)) is not None or not draft.is_complete():
        return manifest
    with hold_lease(draft, context, remake=True):
        if (manifest := valid_snapshot(context.verify)) is None:  # another run may have made it meanwhile
            logger.warning(
                "%s %s is damaged, or what it made elsewhere no longer exists: it is rebuilt", draft.stage, draft.key
            )
            draft.clear(draft.is_lease)  # so that no former holder resumes
    return manifest


def discard(planned: Plan[Any], context: Context) -> None:
    """Delete the snapshot and all unfinished work on it.

    Raises: ConfigError that names the run that makes it now, if there is one.
    """
    draft = _draft(planned, context)
    with hold_lease(draft, context, wait=False, remake=True):
        draft.clear(draft.is_lease)


def _draft(planned: Plan[Any], context: Context) -> Draft:
    return Draft(context.store, planned.stage.name, planned.key)


def make(planned: Plan[Any], context: Context) -> Manifest:
    """Make the snapshot, resuming unfinished work, and commit it. While another run makes it, wait and return its manifest.

    Raises: ContractError if rows were lost or doubled; LeaseLost if another run took over; the errors of the stage.
    """
    draft = _draft(planned, context)
    while True:
        with hold_lease(draft, context) as held:
            if (manifest := find_manifest(context.store, draft.stage, draft.key)) is not None:
                return manifest
            if held is not None:
                return _make(planned, held)


def _make(planned: Plan[Any], held: HeldLease) -> Manifest:
    draft, context = held.draft, held.context
    if held.lease.generation > 1:  # only this run writes here now: what is half written is of killed runs
        context.store.sweep(f"{draft.stage}/{draft.key}")
    stage, code = planned.stage, code_version()
    # A takedown may have rewritten a snapshot, under its key and digest, since an earlier attempt.
    upstream = tuple(load_manifest(context.store, one.stage, one.key) or one for one in planned.upstream)
    inputs = {manifest.stage: manifest for manifest in upstream}
    more = planned.inputs, upstream, planned.older
    made = stage.make(Work(planned.config, planned.seed, inputs, draft, context, *more))
    if stage.conserves_rows:
        check_conservation(stage.name, made, upstream)
    manifest = Manifest(
        schema_version=2 if any(part.home for part in made.parts) else 1,
        stage=stage.name,
        stage_version=stage.version,
        key=planned.key,
        inputs=list(planned.inputs),
        config=planned.config.key_config(),
        seed=planned.seed,
        code=_code_of(stage.name, code),
        parts=sorted(made.parts, key=lambda part: part.name),
        counts=made.counts,
        facts=made.facts.as_json(),
        content_digest=content_digest(made.parts),
        created_at=format_now(),
        prefect_flow_run_id=context.flow_run_id,
        mlflow_run_id=made.mlflow_run_id,
    )
    return held.commit(manifest)


def _code_of(stage: str, start: dict[str, Any]) -> dict[str, Any]:
    """Return the code version of the start, marked if the checkout has changed since: worker processes read it anew."""
    if code_version() == start:
        return start
    logger.warning("%s: the checkout of pairmill changed while the stage ran; its manifest says so", stage)
    return {**start, "dirty": True, "changed": True}


def check_conservation(stage: str, made: StageOutput, upstream: Sequence[Manifest]) -> None:
    """Check that each input row was kept or dropped exactly once: by count, and by uid if the input has uids.

    Raises: ContractError that gives the counts.
    """
    counts = made.counts
    dropped = sum(counts.dropped.values())
    if counts.kept + dropped != counts.input:
        raise ContractError(f"{stage}: {counts.input} input rows, but {counts.kept} were kept and {dropped} dropped")
    read = [m for m in upstream if m.stage == upstream[0].stage]  # several where packs are merged
    input_parts = [p for m in read for p in m.named("part-", ".parquet")]
    output_parts = [p for p in made.parts if p.name.startswith(("part-", "dropped-"))]
    if input_parts and (
        _total(input_parts) != _total(output_parts) or sum(p.rows for p in input_parts) != counts.input
    ):
        raise ContractError(f"{stage}: the uids kept and dropped are not those of the {counts.input} input rows")


def _total(parts: Sequence[Part]) -> int:
    return sum(int(part.uid_sum or "0", 16) for part in parts) % (1 << 128)


def merge_records(records: Sequence[Record]) -> tuple[list[Part], Counts]:
    """Return all parts and the summed counts of the finished tasks of a stage."""
    return [part for record in records for part in record.parts], sum((r.counts for r in records), Counts())


def code_version(root: Path = CHECKOUT) -> dict[str, Any]:
    """Return the git commit (of the checkout, else of the image) and dirty flag, the release, and the version of Python.

    Only `CODE` makes it dirty: a user's project in the checkout changes no code.
    """
    commit, dirty = os.environ.get("PAIRMILL_GIT_COMMIT") or None, None  # of an image without git (infra/Dockerfile)
    if (root / ".git").exists():  # an installed wheel may lie in a repository of the user's
        command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--", *CODE]
        with suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
            if found := re.match(rb"# branch\.oid (\w+)", answer):
                commit, dirty = found[1].decode(), re.search(rb"^[^#]", answer, re.MULTILINE) is not None
    return {
        "commit": commit,
        "dirty": dirty,
        "release": RELEASE,
        "python": platform.python_version(),
    }
