"""The snapshots that registered models need. A server that does not answer is an error."""

from collections.abc import Container, Mapping

from dataops.snapshot import Manifest, SnapshotName
from dataops.stages import STAGES
from tasks.tracking import client as tracking
from tasks.tracking.registry import VERSIONS_AT_ONCE


def find_needed_snapshots(without: Container[str] = ()) -> dict[SnapshotName, str]:
    """Return the snapshots in the tags of all versions of all registered models, each with its version.

    Args:
        without: versions that will be deleted, as `NAME version N`.

    Raises: ServiceError, ConfigError if MLflow does not answer or refuses.
    """
    needed: dict[SnapshotName, str] = {}
    with tracking.mlflow_errors():
        client = tracking.connect()
        for version in tracking.read_pages(
            lambda token: client.search_model_versions(max_results=VERSIONS_AT_ONCE, page_token=token)
        ):
            reason = f"{version.name} version {version.version}"
            if reason in without:
                continue
            if key := version.tags.get(tracking.KEY_TAG):
                needed[SnapshotName("register", key)] = reason
            for stage in STAGES:
                if key := version.tags.get(f"snapshot.{stage}"):
                    needed.setdefault(SnapshotName(stage, key), reason)
            for key in version.tags.get(tracking.DATASETS_TAG, "").split():
                needed.setdefault(SnapshotName("pack", key), reason)
    return needed


def find_unknown_models(registered: Mapping[SnapshotName, Manifest]) -> dict[SnapshotName, str]:
    """Return the register snapshots whose MLflow run the server has never had: another registry may have their versions.

    The run of a deleted version still exists (deleted or not), so its snapshot is not returned. An emptied database or the
    wrong server has no runs at all, and then the models may still be needed.
    """
    from mlflow.exceptions import MlflowException

    unknown: dict[SnapshotName, str] = {}
    with tracking.mlflow_errors():
        client = tracking.connect()
        for name, manifest in registered.items():
            try:
                client.get_run(str(manifest.mlflow_run_id))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                unknown[name] = "a model that this MLflow server has never seen"
    return unknown
