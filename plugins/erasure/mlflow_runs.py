"""Search and erase what pairmill wrote to MLflow: artefacts, tags, names and descriptions of its runs and versions.

A deleted run cannot be written, so it is named with what to do. Parameters of a run are those of its config: they are not
searched. Tags other than descriptions are searched, and never changed.
"""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dataops.errors import PairmillError
from dataops.redaction import remove_credentials
from plugins.erasure.scan import Finds, Scanner, is_weights
from plugins.erasure.traces import WHOLE_BYTES
from tasks.lineage.graph import Lineage
from tasks.takedown.holders import Erased, Found, Scope, Searched, Traces
from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

logger = logging.getLogger(__name__)

OWN_TAGS = ("pairmill.", "snapshot.")
"""Beginnings of tags that only pairmill sets."""
RUNS_AT_ONCE = 200
REMEDY_DELETED = "the run is deleted in MLflow: `mlflow gc --run-ids {run}` removes its artefacts"
REMEDY_TAG = "if the text is of the pair, change the tag in MLflow, and repeat the takedown"
DESCRIPTIONS = ("mlflow.note.content", "description")
REMEDY_FILE = "delete the artefact or the run in MLflow, and repeat the takedown"


def search_mlflow(scanner: Scanner, *, erase: bool) -> Searched:
    """Search all runs that pairmill wrote, and the registered versions; with `erase`, overwrite what is found first.

    Raises: ConfigError, ServiceError if MLflow does not answer.
    """
    searched = Searched(f"MLflow {remove_credentials(tracking.tracking_uri())}")
    with tracking.mlflow_errors(), tempfile.TemporaryDirectory(prefix="pairmill-scratch-mlflow-") as folder:
        client = tracking.connect()
        for run in _list_runs(client):
            _search_values(client, run, scanner, searched, erase=erase)
            _search_artefacts(run, scanner, searched, Path(folder), erase=erase)
        _search_versions(client, scanner, searched, erase=erase)
    return searched


def _list_runs(client: "MlflowClient") -> Iterator["Run"]:
    """Yield the runs with a tag of pairmill, deleted ones too."""
    from mlflow.entities import ViewType

    experiments = [one.experiment_id for one in client.search_experiments(view_type=ViewType.ALL)]
    if experiments:
        for run in tracking.read_pages(
            lambda token: client.search_runs(experiments, "", ViewType.ALL, RUNS_AT_ONCE, page_token=token)
        ):
            if any(name.startswith(OWN_TAGS) for name in run.data.tags):
                yield run


def _search_values(client: "MlflowClient", run: "Run", scanner: Scanner, searched: Searched, *, erase: bool) -> None:
    is_deleted = run.info.lifecycle_stage == "deleted"
    for name, value in run.data.tags.items():
        finds, new = _scan(scanner, name, value, searched)
        if finds and new != value and erase and not is_deleted:
            client.set_tag(run.info.run_id, name, new)
        elif finds:
            _add(searched, run, f"tag {name}", finds, REMEDY_DELETED if is_deleted else REMEDY_TAG)


def _search_artefacts(run: "Run", scanner: Scanner, searched: Searched, folder: Path, *, erase: bool) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    is_deleted = run.info.lifecycle_stage == "deleted"
    # The client would ask for the run and for all logged models of its experiment with each file.
    repository = get_artifact_repository(str(run.info.artifact_uri), tracking_uri=tracking.tracking_uri())
    for artefact in _list_artefacts(repository):
        if is_weights(artefact.path):
            searched.weights_not_read += 1
            continue
        path = Path(repository.download_artifacts(artefact.path, str(folder)))
        size = path.stat().st_size
        searched.files, searched.bytes = searched.files + 1, searched.bytes + size
        with path.open("rb") as file:
            finds = scanner.scan(file, artefact.path, size)
        if finds and erase and not is_deleted and size <= WHOLE_BYTES:
            data = path.read_bytes()
            try:
                new = scanner.redact(data, artefact.path)
            except ValueError:  # it is no record of its kind, so the search names it
                new = data
            if new != data:
                path.write_bytes(new)
                parent = str(PurePosixPath(artefact.path).parent)
                repository.log_artifact(str(path), None if parent == "." else parent)
        elif finds:
            _add(searched, run, artefact.path, finds, REMEDY_DELETED if is_deleted else REMEDY_FILE)
        path.unlink()


def _list_artefacts(repository: "ArtifactRepository", folder: str | None = None) -> Iterator[Any]:
    for one in repository.list_artifacts(folder):
        if one.is_dir:
            yield from _list_artefacts(repository, one.path)
        else:
            yield one


def _search_versions(client: "MlflowClient", scanner: Scanner, searched: Searched, *, erase: bool) -> None:
    """Search the descriptions and tags of the versions of registered models."""
    for version in tracking.read_pages(lambda token: client.search_model_versions(max_results=1000, page_token=token)):
        if not any(name.startswith(OWN_TAGS) for name in version.tags):
            continue
        values = {f"tag {name}": value for name, value in version.tags.items()}
        values["description"] = version.description or ""
        for name, value in values.items():
            finds, new = _scan(scanner, name, value, searched)
            if finds and new != value and erase:
                client.update_model_version(version.name, version.version, new)
            elif finds:
                where = f"models:/{version.name}/{version.version} {name}"
                searched.found.append(Found(searched.place, where, dict(finds), REMEDY_TAG))


def _scan(scanner: Scanner, name: str, value: str, searched: Searched) -> tuple[Finds, str]:
    """Return what a value holds, and the value after its erasure; only descriptions are changed, and no other tag."""
    data, path = value.encode("utf-8", "surrogatepass"), f"{name}.md" if name in DESCRIPTIONS else name
    searched.bytes += len(data)
    finds = scanner.scan(io.BytesIO(data), path, len(data))
    return finds, scanner.redact(data, path).decode("utf-8", "replace") if finds else value


def _add(searched: Searched, run: "Run", name: str, finds: Any, remedy: str) -> None:
    where = f"run {run.info.run_id} {name}"
    searched.found.append(Found(searched.place, where, dict(finds), remedy.format(run=run.info.run_id)))


@dataclass(frozen=True)
class MLflow:
    """Artefacts, tags and descriptions of runs and versions."""

    order: int = 40

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite artefacts and descriptions that quote the pairs; an error is that of the search."""
        with suppress(PairmillError):
            search_mlflow(Scanner(traces), erase=True)
        return Erased()

    def find(self, traces: Traces, scope: Scope) -> Searched | str | None:
        """Search all runs that pairmill wrote. Without a server, None if no model of the store is registered."""
        try:
            return search_mlflow(Scanner(traces), erase=False)
        except PairmillError as error:
            registered = any(name.stage == "register" for name in Lineage(scope.context.store).manifests)
            return str(error) if registered else None


MLFLOW = MLflow()
