"""Find the datasets that hold what a takedown request names, make their next versions, and tag the models trained on them.

The next version is an ordinary `pack` snapshot with the key that the next run of its config computes, so that this run
reuses it and trains on it. Its rows, samples and checksums are read again, as the proof. Nothing is deleted here:
plugins/erasure deletes.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dataops.errors import ContractError, PairmillError
from dataops.facts import RegisterFacts
from dataops.formatting import format_quantity
from dataops.parquet import read_parquet
from dataops.shards.tar import read_samples
from dataops.snapshot import Input, Manifest, Part, find_manifest, snapshot_key
from dataops.storage.base import SMALL_BYTES
from dataops.store import Store
from dataops.trace.requests import (
    STAGE,
    Request,
    list_reports,
    list_requests,
    load_report,
    load_targets,
    select_requests,
)
from dataops.trace.sources import find_source, list_named_sources
from dataops.trace.targets import Target, matching_rows
from plugins.erasure.matched_targets import matched_targets
from tasks.engine.context import Context
from tasks.engine.stage import Plan, make
from tasks.lineage.graph import KEPT, Lineage
from tasks.lists.locations import OPT_OUT_LIST
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tasks.search import Rows, Search, list_applied, load_applied, name_dataset, save_applied
from tasks.tracking import client as tracking
from tasks.tracking.registry import RegisteredVersion, Registry

logger = logging.getLogger(__name__)

TAG = "takedowns"
"""Tag of a model version: the digests of the requests whose targets were in its training data."""


@dataclass
class AffectedDataset:
    """A dataset version that holds pairs to remove, and the models trained on it."""

    dataset: Manifest
    uids: list[str]
    shards: list[str]
    targets: set[Target]
    """The targets that match one of the pairs."""
    models: list[RegisteredVersion] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    """Number of the pairs by source, if the config names its sources."""


@dataclass
class TakedownResult:
    """The result of a takedown for one affected dataset version."""

    affected: AffectedDataset
    successor: Manifest | None = None
    error: str = ""
    rewritten: list[str] = field(default_factory=list)
    unchanged: int = 0
    proof: list[str] = field(default_factory=list)
    """Sentences of `prove_removal`."""
    tagged: list[str] = field(default_factory=list)
    not_tagged: dict[str, str] = field(default_factory=dict)
    """Model versions that could not be tagged, with the reasons."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the report."""
        return {
            "dataset": self.affected.dataset.key,
            "pairs": len(self.affected.uids),
            "sources": self.affected.sources,
            "uids": self.affected.uids,
            "shards": self.affected.shards,
            "next": self.successor.key if self.successor else None,
            "trouble": self.error,
            "rewritten": self.rewritten,
            "unchanged": self.unchanged,
            "proof": self.proof,
            "models_tagged": self.tagged,
            "models_not_tagged": self.not_tagged,
        }


def find_affected(lineage: Lineage, search: Search, request: Request, registry: Registry) -> list[AffectedDataset]:
    """Return the dataset versions with rows that match a target, and the models trained on them; record which have none."""
    targets, as_input = request.parsed(), Input(stage=STAGE, key=request.digest, digest=request.digest)
    found: list[AffectedDataset] = []
    for manifest in lineage.manifests.values():
        if manifest.stage != "pack":
            continue
        hits = search.find(Rows(manifest, KEPT), targets)
        rows = search.rows(hits)
        if not rows:
            _save_applied(search.store, manifest, select_requests(manifest.inputs), [as_input])
        else:
            uids, shards = sorted(row["uid"] for row in rows), sorted({row["shard"] for row in rows})
            matched = matched_targets(rows, targets)
            models, sources = _trained_models(lineage, registry, manifest), _count_sources(lineage, manifest, rows)
            found.append(AffectedDataset(manifest, uids, shards, matched, models, sources))
    return found


def _save_applied(store: Store, version: Manifest, applied: Sequence[Input], unmatched: Sequence[Input] = ()) -> None:
    dataset = name_dataset(version)
    save_applied(store, dataset, load_applied(store, dataset), applied, unmatched)


def _count_sources(lineage: Lineage, dataset: Manifest, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    names = [source.name for source in list_named_sources(lineage.ancestors(dataset))]
    counted = Counter(find_source(row["source"], names) for row in rows)
    return {name: counted[name] for name in names if counted[name]}


def _trained_models(lineage: Lineage, registry: Registry, pack: Manifest) -> list[RegisteredVersion]:
    """Return the versions that MLflow lists, and those that only the register snapshots name.

    A model that was trained on an earlier version, which a takedown replaced by this one, has seen all of its pairs too.
    """
    keys = {pack.key, *_find_replaced(lineage.store, pack.key)}
    known = {v.uri: v for key in sorted(keys) for v in registry.of_snapshot("pack", key)}
    children = [m for m in lineage.manifests.values() if any(i.stage == "pack" and i.key in keys for i in m.inputs)]
    registers = [child for child in children if child.stage == "register"]
    registers += [m for one in (pack, *children) for m in lineage.descendants(one, "register")]
    for register in registers:
        facts = RegisterFacts.of(register)
        version = RegisteredVersion(facts.model_name, facts.version, facts.run_id)
        known.setdefault(version.uri, version)
    return [known[uri] for uri in sorted(known)]


def _find_replaced(store: Store, key: str) -> set[str]:
    """Return the keys of the dataset versions, deleted ones too, that takedowns replaced by this one."""
    replaced = [pair for entry in list_reports(store) for pair in load_report(store, entry.name).versions.items()]
    found, waiting = set[str](), [key]
    while waiting:
        newer = waiting.pop()
        older = {old for old, new in replaced if new == newer} - found - {key}
        found |= older
        waiting += older
    return found


def replace_affected(
    lineage: Lineage, context: Context, request: Request, found: Sequence[AffectedDataset]
) -> list[TakedownResult]:
    """Make the next version of each dataset, prove the removal, and tag the models of the old version."""
    results: list[TakedownResult] = []
    for affected in found:
        result = TakedownResult(affected)
        try:
            _make_successor(lineage, context, result)
        except PairmillError as error:  # continue with the other datasets
            result.error = f"{type(error).__name__}: {error}"
            logger.error("dataset %s has no next version: %s", affected.dataset.key, error)
        _tag_models(result, request)
        results.append(result)
    return results


def _make_successor(lineage: Lineage, context: Context, result: TakedownResult) -> None:
    store, old = context.store, result.affected.dataset
    config, sources = PackConfig.model_validate(old.config), [i for i in old.inputs if i.stage != STAGE]

    def key_of(requests: list[Input]) -> str:
        return snapshot_key(PACK.name, PACK.version, config.key_config(), old.seed, [*sources, *requests])

    if applied := select_requests(old.inputs):  # of an older pairmill, which did not record it
        _save_applied(store, old, applied)
    recorded = list_requests(store)
    requests = list_applied(store, key_of, recorded)
    inputs = [*sources, *requests]
    upstream = [m for i in inputs if (m := lineage.parent(i)) is not None]
    stored = [i for i in inputs if i.stage not in (STAGE, OPT_OUT_LIST)]
    if missing := [f"{i.stage}/{i.key}" for i in stored if lineage.parent(i) is None]:
        raise ContractError(
            f"its {' and '.join(missing)} is no longer in the store; run its config again, which applies the takedown"
        )
    planned = Plan(PACK, config, old.seed, tuple(upstream), tuple(inputs), key_of(requests))
    result.successor = make(planned, context)
    before = {part.name: part.sha256 for part in old.parts}
    tars = result.successor.named("", ".tar")
    result.rewritten = [part.name for part in tars if before.get(part.name) != part.sha256]
    result.unchanged = len(tars) - len(result.rewritten)
    targets = load_targets(store, [one for one in requests if one not in old.inputs])
    result.proof = prove_removal(store, result.successor, targets, result.affected.uids, before)
    if unmatched := [one for one in recorded if one not in requests]:
        _save_applied(store, old, requests, unmatched)


def _tag_models(result: TakedownResult, request: Request) -> None:
    """Tag each model version with the request; record those that cannot be tagged."""
    affected, successor = result.affected, result.successor
    key = successor.key if successor else None
    text = _describe_removal(len(affected.uids), affected.dataset.key, key, request)
    uris = [version.uri for version in affected.models]
    result.tagged, result.not_tagged = _tag(uris, request, text)


def tag_again(request: Request, datasets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tag the models that an earlier call could not tag, whose dataset versions it may have deleted.

    Args:
        datasets: the fields of its report (TakedownResult.as_json).

    Returns: the fields of each dataset with such models, for the next report.
    """
    found: list[dict[str, Any]] = []
    for dataset in datasets:
        if untagged := dataset["models_not_tagged"]:
            text = _describe_removal(dataset["pairs"], dataset["dataset"], dataset["next"], request)
            tagged, failed = _tag(list(untagged), request, text)
            failed = {
                uri: why for uri, why in failed.items() if "RESOURCE_DOES_NOT_EXIST" not in why
            }  # deleted meanwhile
            tagged = [*dataset["models_tagged"], *tagged]
            found.append(dataset | {"proof": [], "models_tagged": tagged, "models_not_tagged": failed})
    return found


def _describe_removal(pairs: int, dataset: str, successor: str | None, request: Request) -> str:
    text = f"{format_quantity(pairs, 'pair')} of dataset {dataset}, on {request.requested_at}"
    if successor:
        text += f"; they are only out of its next version {successor}: this model depends on them"
    return text


def _tag(uris: Sequence[str], request: Request, text: str) -> tuple[list[str], dict[str, str]]:
    """Tag model versions with a request. Return those that were tagged, and the others with the reasons."""
    tagged, failed = list[str](), dict[str, str]()
    for uri in uris:
        name, _, number = uri.removeprefix("models:/").rpartition("/")
        try:
            with tracking.mlflow_errors():
                client = tracking.connect()
                known = client.get_model_version(name, number).tags.get(TAG, "")
                digests = " ".join(sorted({*known.split(), request.digest}))
                client.set_model_version_tag(name, number, TAG, digests)
                client.set_model_version_tag(name, number, f"takedown.{request.digest}", text)
            tagged.append(uri)
        except PairmillError as error:
            failed[uri] = str(error)
    return tagged, failed


def prove_removal(
    store: Store, dataset: Manifest, targets: Sequence[Target], uids: Sequence[str], before: dict[str, str]
) -> list[str]:
    """Check that no row of a new version matches a target, and no shard holds a sample of a removed pair.

    Args:
        uids: removed pairs.
        before: sha256 of each part of the previous version, by name.

    Returns: one sentence for each check, for the report.
    Raises: ContractError that names the row, shard or sample that is left.
    """
    removed, rows, samples = set(uids), 0, 0
    sought = [*targets, *(Target("uid", uid) for uid in uids)]
    written = [part for part in dataset.parts if before.get(part.name) != part.sha256]
    unchanged = dataset.model_copy(update={"parts": [part for part in dataset.parts if part not in written]})
    for hit in Search(store).find(Rows(unchanged, KEPT), sought):
        raise ContractError(f"{dataset.path(hit.part.name)} still has a row of what was taken down")
    for part in written:
        path = dataset.path(part.name)
        if store.is_remote and not part.name.startswith(KEPT) and not part.name.endswith(".tar"):
            continue  # the server has compared their sha256 when they were written
        with _open_verified(store, path, part) as file:
            if part.name.startswith(KEPT):
                table = read_parquet(file, path)
                if matching_rows(table, sought).any():
                    raise ContractError(f"{path} still has a row of what was taken down")
                rows += table.num_rows
            elif part.name.endswith(".tar"):
                samples += _count_samples(file, path, removed)
    if not store.is_remote:  # the unchanged parts were linked; elsewhere they are those that `make` has listed
        find_manifest(store, dataset.stage, dataset.key)
    compared = (
        "the server compared the checksum of each new part; that of rewritten shards"
        if store.is_remote
        else "the sha256 of each new part"
    )
    return [
        f"{format_quantity(rows, 'row')} of rewritten shards {_were(rows)} read again: no row matches a target",
        f"{format_quantity(samples, 'sample')} of them {_were(samples)} read again: none belongs to a removed pair",
        f"{compared} was computed again; unchanged shards without a target: {len(unchanged.named('', '.tar')):,}",
    ]


@contextmanager
def _open_verified(store: Store, path: str, part: Part) -> Iterator[BinaryIO]:
    """Open a part after its sha256 was compared."""
    with store.open_sized(path, part.bytes) as file:
        digest = hashlib.sha256()
        while chunk := file.read(SMALL_BYTES):
            digest.update(chunk)
        if digest.hexdigest() != part.sha256:
            raise ContractError(f"{path} differs from the sha256 in its manifest")
        file.seek(0)
        yield file


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _count_samples(file: BinaryIO, tar: str, removed: set[str]) -> int:
    """Return the number of samples of a shard. Raises: ContractError if one belongs to a removed pair, by key or uid."""
    count = 0
    for key, members in read_samples(file, tar):
        row = json.loads(members.get("json", b"{}"))
        if key in removed or row.get("uid") in removed:
            raise ContractError(f"{tar} still has the sample {key}")
        count += 1
    return count
