"""Takes things out: makes the next dataset versions without them, tags the models that saw them, and proves it.

A version after a takedown is an ordinary `pack` snapshot, with the key that the next run of its config will look for: that
run takes it, and trains on it. Nothing is deleted here (tasks/lineage/takedown_raw.py does, on request).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dataops.errors import ContractError, PairmillError
from dataops.snapshot import Manifest, snapshot_key
from dataops.trace.targets import COLUMNS, Target, matching_rows
from tasks.engine.context import Context
from tasks.engine.stage import Plan, make
from tasks.engine.takedown_requests import STAGE, Request, recorded, targets_of
from tasks.lineage.graph import KEPT, Lineage
from tasks.lineage.search import Rows, Search
from tasks.lineage.takedown_proof import prove_removal
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tasks.tracking import client as tracking
from tasks.tracking.registry import RegisteredVersion, Registry

logger = logging.getLogger(__name__)

TAG = "takedowns"
"""On a version: the requests whose targets it saw in training, by digest."""


@dataclass
class AffectedDataset:
    """A dataset version that holds what is to be taken out."""

    dataset: Manifest
    uids: list[str]
    shards: list[str]
    models: list[RegisteredVersion] = field(default_factory=list)


@dataclass
class TakedownResult:
    """What became of one affected dataset version."""

    affected: AffectedDataset
    successor: Manifest | None = None
    error: str = ""
    rewritten: list[str] = field(default_factory=list)
    unchanged: int = 0
    proof: list[str] = field(default_factory=list)
    """What was read again and found clean."""
    tagged: list[str] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    """Versions that could not be tagged, each with why."""

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "dataset": self.affected.dataset.key,
            "pairs": len(self.affected.uids),
            "uids": self.affected.uids,
            "shards": self.affected.shards,
            "next": self.successor.key if self.successor else None,
            "trouble": self.error,
            "rewritten": self.rewritten,
            "unchanged": self.unchanged,
            "proof": self.proof,
            "models_tagged": self.tagged,
            "models_not_tagged": self.unreachable,
        }


def find_affected(
    lineage: Lineage, search: Search, targets: Sequence[Target], registry: Registry
) -> list[AffectedDataset]:
    """The dataset versions that hold what the targets mean, and the models that were trained on them."""
    found: list[AffectedDataset] = []
    for manifest in lineage.manifests.values():
        if manifest.stage != "pack":
            continue
        hits = search.find(Rows(manifest, KEPT), targets)
        rows = [(hit, row) for hit, row in zip(hits, search.rows(hits), strict=True) if _is_meant(row, targets)]
        if rows:
            uids, shards = sorted(row["uid"] for _, row in rows), sorted({row["shard"] for _, row in rows})
            found.append(AffectedDataset(manifest, uids, shards, _models(lineage, registry, manifest)))
    return found


def _is_meant(row: dict[str, Any], targets: Sequence[Target]) -> bool:
    return bool(matching_rows(pa.table({c: pa.array([row[c]], pa.string()) for c in COLUMNS}), targets)[0])


def _models(lineage: Lineage, registry: Registry, pack: Manifest) -> list[RegisteredVersion]:
    """As MLflow tells, else as register wrote down."""
    known = {v.uri: v for v in registry.of_snapshot("pack", pack.key)}
    for register in lineage.below(pack, "register"):
        facts = register.facts
        version = RegisteredVersion(str(facts["model_name"]), str(facts["version"]), facts.get("run_id"))
        known.setdefault(version.uri, version)
    return [known[uri] for uri in sorted(known)]


def replace_affected(
    lineage: Lineage, context: Context, request: Request, found: Sequence[AffectedDataset]
) -> list[TakedownResult]:
    """Make the next version of each dataset, prove that it is clean, and tag the models of the old one."""
    outcomes: list[TakedownResult] = []
    for one in found:
        outcome = TakedownResult(one)
        try:
            _succeed(lineage, context, outcome)
        except PairmillError as error:  # the other datasets are to be done all the same
            outcome.error = f"{type(error).__name__}: {error}"
            logger.error("dataset %s has no next version: %s", one.dataset.key, error)
        _tag(outcome, request)
        outcomes.append(outcome)
    return outcomes


def _succeed(lineage: Lineage, context: Context, outcome: TakedownResult) -> None:
    store, old = context.store, outcome.affected.dataset
    requests = recorded(store)
    inputs = [i for i in old.inputs if i.stage != STAGE] + requests
    upstream = [m for i in inputs if (m := lineage.parent(i)) is not None]
    if missing := [f"{i.stage}/{i.key}" for i in inputs if i.stage != STAGE and lineage.parent(i) is None]:
        raise ContractError(
            f"its {' and '.join(missing)} is no longer in the store; run its config again, which heeds the takedown"
        )
    config = PackConfig.model_validate(old.config)
    key = snapshot_key(PACK.name, PACK.version, config.key_config(), old.seed, inputs)
    outcome.successor = make(Plan(PACK, config, old.seed, tuple(upstream), tuple(inputs), key), context)
    before = {part.name: part.sha256 for part in old.parts}
    tars = outcome.successor.named("", ".tar")
    outcome.rewritten = [part.name for part in tars if before.get(part.name) != part.sha256]
    outcome.unchanged = len(tars) - len(outcome.rewritten)
    outcome.proof = prove_removal(store, outcome.successor, targets_of(store, requests), outcome.affected.uids, before)


def _tag(outcome: TakedownResult, request: Request) -> None:
    """Write on each model's version what it saw; one that cannot be reached is named."""
    for version in outcome.affected.models:
        text = (
            f"{len(outcome.affected.uids)} pairs of dataset {outcome.affected.dataset.key}, on {request.requested_at}"
        )
        following = f"; next version {outcome.successor.key}" if outcome.successor else ""
        try:
            with tracking.mlflow_errors():
                client = tracking.connect()
                known = client.get_model_version(version.name, version.version).tags.get(TAG, "")
                named = " ".join(sorted({*known.split(), request.digest}))
                client.set_model_version_tag(version.name, version.version, TAG, named)
                client.set_model_version_tag(
                    version.name, version.version, f"takedown.{request.digest}", text + following
                )
            outcome.tagged.append(version.uri)
        except PairmillError as error:
            outcome.unreachable[version.uri] = str(error)
