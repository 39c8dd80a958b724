"""What a stage is, and how its snapshot is found or made.

A stage is a value: a name, a version and a function `make`. Everything that all stages share (the key, reuse, the
conservation of rows, the manifest) lives here once.
"""

import logging
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from dataops.config import StageConfig
from dataops.errors import ContractError, CorruptPart
from dataops.home import CHECKOUT
from dataops.snapshot import (
    MANIFEST,
    Counts,
    Draft,
    Input,
    Manifest,
    Part,
    Record,
    content_digest,
    find_manifest,
    snapshot_key,
)
from dataops.store import Store
from tasks.engine.context import Context
from tasks.engine.lease import HeldLease, hold_lease

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=StageConfig)


@dataclass(frozen=True)
class Work(Generic[ConfigT]):
    """One snapshot to make."""

    config: ConfigT
    seed: int
    inputs: dict[str, Manifest]
    """The snapshots that it reads, by stage."""
    draft: Draft
    context: Context
    made_of: tuple[Input, ...] = ()
    """All inputs, as they entered the key: also what lies outside the store, and the store's own orders."""


@dataclass(frozen=True)
class StageOutput:
    """What `make` returns: the parts that it wrote, and what is to be said of them."""

    parts: list[Part]
    counts: Counts = field(default_factory=Counts)
    facts: dict[str, Any] = field(default_factory=dict)
    mlflow_run_id: str | None = None


@dataclass(frozen=True)
class Stage(Generic[ConfigT]):
    """One stage of the pipeline."""

    name: str
    version: int
    """Raised whenever the output for the same config and inputs changes."""
    make: Callable[[Work[ConfigT]], StageOutput]
    external_inputs: Callable[[ConfigT], list[Input]] = lambda config: []
    """What it reads that is not in the store (source files, an evaluation suite), digested."""
    store_inputs: Callable[[Store], list[Input]] = lambda store: []
    """What the store itself says that must be heeded (requests to take things out); part of the key like any input."""
    still_valid: Callable[[Manifest, ConfigT, Context], bool] = lambda manifest, config, context: True
    """Whether a complete snapshot still stands for what it made elsewhere (a registered model)."""
    conserves_rows: bool = True
    """Whether `kept + dropped == input`, by uid, is to be asserted."""


@dataclass(frozen=True)
class Plan(Generic[ConfigT]):
    """The key of the snapshot that a stage is to make, and what goes into it."""

    stage: Stage[ConfigT]
    config: ConfigT
    seed: int
    upstream: tuple[Manifest, ...]
    inputs: tuple[Input, ...]
    key: str


def plan(
    stage: Stage[ConfigT],
    config: ConfigT,
    seed: int,
    upstream: Sequence[Manifest],
    store: Store | None = None,
) -> Plan[ConfigT]:
    """Digest the inputs and name the snapshot.

    Args:
        store: where it will lie, which may have orders of its own; None: a store without any.
    """
    stored = stage.store_inputs(store) if store is not None else []
    inputs = [manifest.as_input() for manifest in upstream] + stage.external_inputs(config) + stored
    key = snapshot_key(stage.name, stage.version, config.key_config(), seed, inputs)
    return Plan(stage, config, seed, tuple(upstream), tuple(inputs), key)


def reuse(planned: Plan[Any], context: Context, *, verify: bool = False) -> Manifest | None:
    """The complete snapshot of this plan, where there is one that still stands."""

    def valid_snapshot(verify: bool) -> Manifest | None:
        try:
            manifest = find_manifest(context.store, planned.stage.name, planned.key, verify=verify)
        except CorruptPart as error:
            logger.warning("%s", error)
            return None
        stands = manifest is not None and planned.stage.still_valid(manifest, planned.config, context)
        return manifest if stands else None

    draft = _draft(planned, context)
    if (manifest := valid_snapshot(verify)) is not None or not draft.is_complete():
        return manifest
    with hold_lease(draft, context, remake=True):
        if (manifest := valid_snapshot(verify)) is None:  # another run may have remade it meanwhile
            logger.warning("%s %s is damaged, or what it made elsewhere is gone: made again", draft.stage, draft.key)
            _clear(draft)
    return manifest


def discard(planned: Plan[Any], context: Context) -> None:
    """Delete the snapshot and all unfinished work on it.

    Raises: ConfigError that names the run that makes it now, where one does.
    """
    draft = _draft(planned, context)
    with hold_lease(draft, context, wait=False, remake=True):
        _clear(draft)


def _draft(planned: Plan[Any], context: Context) -> Draft:
    return Draft(context.store, planned.stage.name, planned.key)


def _clear(draft: Draft) -> None:
    """The manifest first, so that none ever names missing parts; the leases stay, so that no former holder wakes up."""
    draft.store.delete([draft.path(MANIFEST)])
    names = draft.store.names(f"{draft.stage}/{draft.key}")
    draft.store.delete([name for name in names if not draft.is_lease(name)])


def make(planned: Plan[Any], context: Context) -> Manifest:
    """Make the snapshot, resuming what an earlier try left, and commit it; while another run makes it, wait and take its.

    Raises: ContractError when rows were lost or doubled; LeaseLost when another run took over; whatever the stage raises.
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
    context.store.sweep(
        f"{draft.stage}/{draft.key}"
    )  # what a killed run left half written: none but us writes here now
    stage = planned.stage
    upstream = {manifest.stage: manifest for manifest in planned.upstream}
    made = stage.make(Work(planned.config, planned.seed, upstream, draft, context, planned.inputs))
    if stage.conserves_rows:
        check_conservation(stage.name, made, planned.upstream)
    manifest = Manifest(
        stage=stage.name,
        stage_version=stage.version,
        key=planned.key,
        inputs=list(planned.inputs),
        config=planned.config.key_config(),
        seed=planned.seed,
        code=code_version(),
        parts=sorted(made.parts, key=lambda part: part.name),
        counts=made.counts,
        facts=made.facts,
        content_digest=content_digest(made.parts),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        prefect_flow_run_id=context.flow_run_id,
        mlflow_run_id=made.mlflow_run_id,
    )
    held.stop()  # a beat after the commit would leave a lease behind
    return draft.commit(manifest)


def check_conservation(stage: str, made: StageOutput, upstream: Sequence[Manifest]) -> None:
    """Assert that each row that came in was kept or dropped, once: by count, and by uid where the input has uids.

    Raises: ContractError that gives the counts.
    """
    counts = made.counts
    dropped = sum(counts.dropped.values())
    if counts.kept + dropped != counts.input:
        raise ContractError(f"{stage}: {counts.input} rows came in, but {counts.kept} were kept and {dropped} dropped")
    came = [p for m in upstream[:1] for p in m.named("part-", ".parquet")]
    left = [p for p in made.parts if p.name.startswith(("part-", "dropped-"))]
    if came and (_total(came) != _total(left) or sum(p.rows for p in came) != counts.input):
        raise ContractError(f"{stage}: the uids kept and dropped are not those that came in ({counts.input} rows)")


def _total(parts: Sequence[Part]) -> int:
    return sum(int(part.uid_sum or "0", 16) for part in parts) % (1 << 128)


def merge_records(records: Sequence[Record]) -> tuple[list[Part], Counts]:
    """All parts and the summed counts of the finished tasks of a stage."""
    return [part for record in records for part in record.parts], sum((r.counts for r in records), Counts())


def code_version() -> dict[str, Any]:
    """Git commit and dirty flag of this checkout (else what its image was built from), and the Python that runs it."""
    root = CHECKOUT

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(root), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    commit = git("rev-parse", "HEAD")
    dirty = None if commit is None else bool(git("status", "--porcelain"))
    if commit is None:  # a container image has no git (infra/Dockerfile)
        commit = os.environ.get("PAIRMILL_GIT_COMMIT") or None
    return {"commit": commit, "dirty": dirty, "python": platform.python_version()}
