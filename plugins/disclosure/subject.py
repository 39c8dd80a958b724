"""What a document is about: a model or a dataset, with the manifests of everything that it was made of."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from dataops.errors import ConfigError
from dataops.facts import PretrainedWeights, TrainFacts
from dataops.snapshot import Manifest, load_manifest
from dataops.store import Store
from dataops.trace.lineages import Lineage, load_lineages, merge_lineages
from dataops.trace.requests import list_reports, load_report
from dataops.trace.sources import list_shares, list_training_datasets
from flows.records import find_named_version, find_run, find_snapshot, load_manifests
from tasks.growth.versions import Version, find_version
from tasks.models.find import REGISTERED
from tasks.pack.union import load_union
from tasks.register.documents import Registered, fetch_manifests


@dataclass(frozen=True)
class Chain:
    """A dataset and the snapshots that it was made of."""

    pack: Manifest
    lineages: Sequence[Lineage]
    """By stage, as far as they are known: those of each run that added to it."""

    @cached_property
    def ancestors(self) -> Mapping[str, Manifest]:
        """The snapshots by stage; those of several runs as one, with the counts of all."""
        return merge_lineages(self.lineages) | {"pack": self.pack}

    @classmethod
    def of(cls, pack: Manifest, store: Store) -> Self:
        """Return a dataset with its lineages in the store."""
        return cls(pack, load_lineages(store, pack))

    def find(self, stage: str) -> Manifest | None:
        """Return the snapshot of a stage."""
        return self.ancestors.get(stage)

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.pack.counts.kept


@dataclass(frozen=True)
class Subject:
    """A model or a dataset."""

    kind: Literal["model", "dataset"]
    name: str
    chains: Sequence[Chain]
    """Its datasets, that of the model's own run first."""
    missing: Sequence[str] = ()
    """Keys of datasets that are not known any more."""
    store: Store | None = None
    """Store with the parts of the datasets; None if only manifests are known."""
    train: Manifest | None = None
    manifests: Mapping[str, Manifest] = field(default_factory=dict[str, Manifest])
    """Snapshots of the model and its own dataset, by stage."""
    license: str = ""
    """Licence of the weights, as their owner states it."""
    replaced: Sequence[str] = ()
    """Keys of datasets of the training that a takedown deleted; the chains have their next versions."""

    @property
    def packs(self) -> list[Manifest]:
        """Manifests of the datasets; a version of a dataset that grows is one."""
        return [chain.pack for chain in self.chains]

    @property
    def datasets(self) -> list[str]:
        """`pack/KEY` of each dataset, those that are not known any more last."""
        packs = [one for pack in self.packs for one in getattr(pack, "packs", (pack,))]
        return [f"pack/{key}" for key in [*(pack.key for pack in packs), *self.missing]]

    @property
    def pairs(self) -> int:
        """Number of pairs of all datasets."""
        return sum(chain.pairs for chain in self.chains)

    @cached_property
    def weights(self) -> list[PretrainedWeights]:
        """Pretrained weights that the training started from."""
        return TrainFacts.of(self.train).weights if self.train is not None else []


def describe_dataset(pack: Manifest, store: Store) -> Subject:
    """Return the subject of a snapshot of pack."""
    return _describe_packed(f"pack/{pack.key}", Chain.of(pack, store), store)


def describe_version(version: Version, store: Store) -> Subject:
    """Return the subject of a version of a dataset that grows."""
    return _describe_packed(version.name, Chain(*load_union(version, store)), store)


def _describe_packed(name: str, chain: Chain, store: Store) -> Subject:
    return Subject("dataset", name, [chain], store=store, manifests=chain.ancestors)


def describe_training(train: Manifest, store: Store, name: str = "", license_: str = "") -> Subject:
    """Return the subject of a snapshot of train; `name` is that of its registered version."""
    datasets = list_training_datasets(train, store)
    chains = [Chain.of(one.manifest, store) for one in datasets if one.manifest is not None]
    missing = [one.key for one in datasets if one.manifest is None]
    own = chains[0].ancestors if chains and not (datasets and datasets[0].manifest is None) else {}
    manifests = {**own, "train": train}
    return Subject("model", name or f"train/{train.key}", chains, missing, store, train, manifests, license_)


def follow_takedowns(subject: Subject) -> Subject:
    """Return the subject with the next versions of the datasets that takedowns deleted, where they are in its store."""
    if subject.store is None or not subject.missing:
        return subject
    store, versions = subject.store, dict[str, str]()
    for entry in list_reports(store):
        versions |= load_report(store, entry.name).versions
    found = {key: new for key in subject.missing if (new := _find_next(store, key, versions)) is not None}
    return replace(
        subject,
        chains=[*subject.chains, *(Chain.of(new, store) for new in found.values())],
        missing=[key for key in subject.missing if key not in found],
        replaced=list(found),
    )


def _find_next(store: Store, key: str, versions: Mapping[str, str]) -> Manifest | None:
    """Return the first version after a dataset that is in the store."""
    tried = set[str]()
    while (key := versions.get(key, "")) and key not in tried:
        tried.add(key)
        if (found := load_manifest(store, "pack", key)) is not None:
            return found
    return None


def describe_manifests(
    name: str, manifests: Mapping[str, Manifest], others: Iterable[Manifest], license_: str
) -> Subject:
    """Return the subject of a model of which only the manifests are known, as its MLflow run has them.

    Args:
        manifests: of the stages of its run, by stage.
        others: those of the other datasets of its training, and of their ancestors.
    """
    train = manifests["train"]
    known = {(one.stage, one.key): one for one in (*manifests.values(), *others)}
    by_digest = {one.content_digest: one for one in known.values() if one.stage == "pack"}
    chains, missing = list[Chain](), list[str]()
    for source, _ in list_shares(train):
        pack = known.get(("pack", source.key)) or by_digest.get(source.digest)
        if pack is None:
            missing.append(source.key)
        else:
            chains.append(Chain(pack, [_link(pack, known)]))
    return Subject("model", name, chains, missing, None, train, manifests, license_)


def _link(pack: Manifest, known: Mapping[tuple[str, str], Manifest]) -> dict[str, Manifest]:
    found, todo = {pack.stage: pack}, list(pack.inputs)
    while todo:
        source = todo.pop(0)
        above = known.get((source.stage, source.key))
        if above is not None and source.stage not in found:
            found[source.stage] = above
            todo += above.inputs
    return found


_KEY = re.compile(r"(?:(?P<stage>pack|train)/)?(?P<key>[0-9a-z]{16})")
_ASKED = (
    "name a dataset or a train snapshot by its key, a version of a dataset that grows, a run, or a registered model "
    "(models:/name/version, name@alias)"
)


def find_subject(what: str, home: Path, store_uri: str | None) -> Subject:
    """Return the subject of a document.

    Raises: ConfigError if there is no such model or dataset; ServiceError if MLflow does not answer.
    """
    if version := find_named_version(what, home, store_uri):
        return describe_version(*version)
    if (named := _KEY.fullmatch(what)) and (found := find_snapshot(named["key"], home, store_uri)) is not None:
        return _describe_snapshot(what, *found)
    if REGISTERED.fullmatch(what) and not named:
        return _describe_registered(fetch_manifests(what), home, store_uri)
    if not named and "/" not in what and (run := find_run(what, home, store_uri)) is not None:
        by_stage = {manifest.stage: manifest for manifest in load_manifests(*run)}
        if run[0].version is not None and "train" not in by_stage:
            return describe_version(find_version(run[1], run[0].version), run[1])
        if made := by_stage.get("train") or by_stage.get("pack"):
            return _with_evaluation(_describe_snapshot(what, made, run[1]), by_stage)
        raise ConfigError(f"run {what} has made no dataset and no model that are still in its store; {_ASKED}")
    raise ConfigError(f"there is no model or dataset {what!r} in a known store (--store names another); {_ASKED}")


def _describe_snapshot(what: str, manifest: Manifest, store: Store) -> Subject:
    if manifest.stage == "pack":
        return describe_dataset(manifest, store)
    if manifest.stage == "train":
        return describe_training(manifest, store)
    raise ConfigError(f"{what} is a snapshot of {manifest.stage}; {_ASKED}")


def _describe_registered(model: Registered, home: Path, store_uri: str | None) -> Subject:
    """Return the subject of a registered model, from the store where that still has its training."""
    train = model.manifests["train"]
    if (found := find_snapshot(train.key, home, store_uri)) is not None and found[
        0
    ].content_digest == train.content_digest:
        return _with_evaluation(describe_training(*found, model.name, model.license), model.manifests)
    return describe_manifests(model.name, model.manifests, model.others, model.license)


def _with_evaluation(subject: Subject, manifests: Mapping[str, Manifest]) -> Subject:
    """Return a model with the manifest of its evaluation, which is no ancestor of it."""
    if subject.train is None or "evaluate" not in manifests:
        return subject
    return replace(subject, manifests={**subject.manifests, "evaluate": manifests["evaluate"]})
