"""Find the model or dataset that a document is about, by what the user typed."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dataops.errors import ConfigError
from dataops.snapshot import Manifest
from dataops.store import Store
from flows.records import find_run, find_snapshot, load_manifests
from plugins.disclosure.subject import Subject, describe_dataset, describe_manifests, describe_training
from tasks.models.find import REGISTERED
from tasks.register.registered_manifests import Registered, fetch_manifests

_KEY = re.compile(r"(?:(?P<stage>pack|train)/)?(?P<key>[0-9a-z]{16})")
_ASKED = (
    "name a dataset or a train snapshot by its key, a run, or a registered model (models:/name/version, name@alias)"
)


def find_subject(what: str, home: Path, store_uri: str | None) -> Subject:
    """Return the subject of a document.

    Raises: ConfigError if there is no such model or dataset; ServiceError if MLflow does not answer.
    """
    if (named := _KEY.fullmatch(what)) and (found := find_snapshot(named["key"], home, store_uri)) is not None:
        return _describe_snapshot(what, *found)
    if REGISTERED.fullmatch(what) and not named:
        return _describe_registered(fetch_manifests(what), home, store_uri)
    if not named and "/" not in what and (run := find_run(what, home, store_uri)) is not None:
        by_stage = {manifest.stage: manifest for manifest in load_manifests(*run)}
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
