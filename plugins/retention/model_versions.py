"""Old versions of registered models: which ones nothing needs, and their deletion with the files of their models.

Deleting a version in MLflow leaves its model's files, 60 to 105 MB. Here the version is deleted first, so that none is left
without files; then the files, then MLflow's record of the model. A killed call leaves a model without a version, which the
next call deletes, as it does what a killed registration has left.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dataops.snapshot import SnapshotName, find_manifest
from dataops.stages import STAGES
from dataops.store import Store
from tasks.lineage.inventory import DAY
from tasks.models.find import REGISTERED
from tasks.tracking import client as tracking
from tasks.tracking.registry import VERSIONS_AT_ONCE


@dataclass(frozen=True)
class OldModel:
    """A version that nothing needs, or a model whose version is deleted or was never made."""

    name: str
    """`NAME version N`, or MLflow's id of the model."""
    version: tuple[str, str] | None
    """Name and number of the version; None: it has none."""
    model_id: str | None
    bytes: int


def find_old_models(
    keep: int, stores: Sequence[Store], configs: Iterable[Mapping[str, Any]], unversioned_seconds: float = DAY
) -> list[OldModel]:
    """Return the models to delete.

    Kept are versions with an alias, the newest `keep` of each name, and those that a config names: of a kept run, or of
    a snapshot of a kept version.

    Args:
        keep: number of newest versions of each name that are kept without an alias.
        stores: where the snapshots of the versions are.
        configs: those of the kept runs.
        unversioned_seconds: age from which on a model without a version is not one that is being registered.

    Raises: ServiceError, ConfigError if MLflow does not answer or refuses.
    """
    with tracking.mlflow_errors():
        client = tracking.connect()
        by_name: dict[str, list[Any]] = defaultdict(list)
        for version in tracking.read_pages(
            lambda token: client.search_model_versions(max_results=VERSIONS_AT_ONCE, page_token=token)
        ):
            by_name[version.name].append(version)
        kept, old = [], []
        for name, versions in by_name.items():
            versions.sort(key=lambda one: int(one.version), reverse=True)
            aliases = set(map(str, client.get_registered_model(name).aliases.values()))
            for rank, version in enumerate(versions):
                is_kept = rank < keep or str(version.version) in aliases or not _key(version)
                (kept if is_kept else old).append(version)
        named = {name for config in configs for name in _named_models(config)}
        named |= {name for version in kept for name in _named_by_snapshots(version.tags, stores)}
        old = [one for one in old if (one.name, str(one.version)) not in named]
        models = {model.tags[tracking.KEY_TAG]: model for model in _our_models(client)}
        found = [
            _old_model(client, f"{v.name} version {v.version}", (v.name, str(v.version)), models.get(_key(v)))
            for v in old
        ]
        with_version = {_key(version) for versions in by_name.values() for version in versions}
        return found + [
            _old_model(client, model.model_id, None, model)
            for key, model in models.items()
            if key not in with_version and time.time() - model.creation_timestamp / 1000 >= unversioned_seconds
        ]


def _key(version: Any) -> str:
    """Return the key of the register snapshot of a version, which its model has too: MLflow's version does not name it."""
    return version.tags.get(tracking.KEY_TAG, "")


def _old_model(client: Any, name: str, version: tuple[str, str] | None, model: Any) -> OldModel:
    return (
        OldModel(name, version, model.model_id, _model_bytes(client, model.model_id))
        if model
        else OldModel(name, version, None, 0)
    )


def delete_old_models(models: Iterable[OldModel]) -> None:
    """Delete versions, the files of their models, and MLflow's records of these; a killed call can be repeated.

    A version that has got an alias meanwhile is kept.
    """
    with tracking.mlflow_errors():
        client = tracking.connect()
        for model in models:
            if model.version is not None:
                if client.get_model_version(*model.version).aliases:
                    continue
                client.delete_model_version(*model.version)
            if model.model_id is not None:
                _repository(client, model.model_id).delete_artifacts()
                client.delete_logged_model(model.model_id)


def snapshots_of(models: Iterable[OldModel]) -> set[str]:
    """Return the names of the versions, as `find_needed_snapshots` gives them as a reason."""
    return {model.name for model in models if model.version is not None}


def _named_models(config: object) -> set[tuple[str, str]]:
    """Return the versions that a config names, as `models:/name/version` or `name/version`, wherever it does."""
    if isinstance(config, Mapping):
        return {name for value in config.values() for name in _named_models(value)}
    if isinstance(config, list | tuple):
        return {name for value in config for name in _named_models(value)}
    match = REGISTERED.fullmatch(config) if isinstance(config, str) else None
    return {(match["name"], match["version"])} if match and match["version"] else set()


def _named_by_snapshots(tags: Mapping[str, str], stores: Sequence[Store]) -> set[tuple[str, str]]:
    names = [SnapshotName(stage, tags[f"snapshot.{stage}"]) for stage in STAGES if f"snapshot.{stage}" in tags]
    manifests = (find_manifest(store, *name) for store in stores for name in names)
    return {name for one in manifests if one for name in _named_models(json.loads(json.dumps(one.config)))}


def _our_models(client: Any) -> list[Any]:
    experiments = [
        one.experiment_id for one in tracking.read_pages(lambda token: client.search_experiments(page_token=token))
    ]
    found = []
    for start in range(0, len(experiments), 100):
        ids = experiments[start : start + 100]
        found += tracking.read_pages(
            lambda token, ids=ids: client.search_logged_models(experiment_ids=ids, page_token=token)
        )
    return [model for model in found if tracking.KEY_TAG in model.tags]


def _repository(client: Any, model_id: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = client.get_logged_model(model_id).artifact_location
    return get_artifact_repository(location, tracking_uri=tracking.tracking_uri())


def _model_bytes(client: Any, model_id: str) -> int:
    """Return the size of the files of a model; 0 where the server does not list them."""
    from mlflow.exceptions import MlflowException

    total, folders = 0, [None]
    with suppress(MlflowException):
        while folders:
            for file in _repository(client, model_id).list_artifacts(folders.pop()):
                if file.is_dir:
                    folders.append(file.path)
                total += file.file_size or 0
    return total
