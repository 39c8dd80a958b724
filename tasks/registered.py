"""Which snapshots the registered models need, as MLflow tells it. A server that does not answer is an error, not a no."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dataops.funnel import STAGES
from dataops.snapshot import Manifest
from tasks import tracking
from tasks.retention import Name

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

VERSIONS_AT_ONCE = 1000


def needed_by_models() -> dict[Name, str]:
    """The snapshots that the tags of every version name, in any registered model of the server, with the version.

    Raises: ServiceError, ConfigError when MLflow does not answer or refuses.
    """
    needed: dict[Name, str] = {}
    with tracking.mlflow_errors():
        for version in _versions():
            why = f"{version.name} version {version.version}"
            if key := version.tags.get(tracking.KEY_TAG):
                needed[Name("register", key)] = why
            for stage in STAGES:
                if key := version.tags.get(f"snapshot.{stage}"):
                    needed.setdefault(Name(stage, key), why)
    return needed


def _versions() -> Iterator["ModelVersion"]:
    client, token = tracking.connect(), None
    while True:
        page = client.search_model_versions(max_results=VERSIONS_AT_ONCE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def unknown_to_registry(registered: Mapping[Name, Manifest]) -> dict[Name, str]:
    """Those register snapshots whose MLflow run the server has never seen: their versions are in another registry.

    A version that was deleted leaves its run behind (deleted or not), so its snapshot is not among these; but a database
    that was lost, or the wrong server, knows nothing: then nobody can say that the model is not needed.
    """
    from mlflow.exceptions import MlflowException

    unknown: dict[Name, str] = {}
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
