"""Write the registered version of a registration, with its description, its alias and the gate's verdict."""

import json
import logging
from typing import TYPE_CHECKING

from dataops.facts import RegisteredPages, RegisterFacts
from tasks.register.artefacts import log_card
from tasks.register.config import CANDIDATE
from tasks.register.promotion import describe_model, move_alias
from tasks.register.registration import Registration
from tasks.tracking import client as tracking
from tasks.tracking import pages

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

GATE_TAG = "gate"
"""The last tag that is set on a version: its presence means that the registration is complete."""
ARTEFACTS = {
    "model card": "model_card.html",
    "evaluation": "evaluation.html",
    "dataset": "dataset.html",
    "filter report": "filter.html",
    "download report": "download.html",
    "config": "config.json",
}
"""Artefacts of a run that have a link, by the name of the page."""
LINKED = {name: name.capitalize() for name in ARTEFACTS} | {"run": "MLflow run", "runs": "All runs"}
"""The pages that a version's description links to, with their titles."""


def find_version(client: "MlflowClient", name: str, key: str) -> "ModelVersion | None":
    """Return the version of a register snapshot; the first if there are several."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{tracking.KEY_TAG}` = '{key}'")
    return min(found, key=lambda version: int(version.version), default=None)


def write_version(registration: Registration, run: "Run", model_id: str) -> "ModelVersion":
    """Create or complete the version, and return it."""
    client, config, key = registration.client, registration.work.config, registration.work.draft.key
    name, verdict = config.model_name, registration.verdict
    version = find_version(client, name, key) or _create_version(registration, run, model_id)
    number = str(version.version)
    versions = json.dumps([{"name": name, "version": number}])
    log_card(registration, run, version)
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
    info = run.info
    paths = page_paths(
        RegisteredPages(model_name=name, version=number, run_id=info.run_id, experiment_id=info.experiment_id)
    )
    links = {title: paths[page] for page, title in LINKED.items()}
    client.update_model_version(name, number, registration.render_description(links))
    if verdict.comparisons:
        compared = "; ".join(verdict.comparisons)[: tracking.TAG_LENGTH]
        client.set_model_version_tag(name, number, "champion_test", compared)
    alias = config.alias if verdict.gets_alias else CANDIDATE
    move_alias(client, name, alias, number, f"run {registration.work.context.run_id or key}", verdict.sentence)
    describe_model(client, name)
    client.set_model_version_tag(name, number, GATE_TAG, str(verdict)[: tracking.TAG_LENGTH])
    logger.info("register %s: %s version %s, %s", key, name, number, verdict.sentence)
    return client.get_model_version(name, number)


def _create_version(registration: Registration, run: "Run", model_id: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    client, name = registration.client, registration.work.config.model_name
    try:
        client.create_registered_model(name, tags={"pairmill": "CLIP"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {tracking.KEY_TAG: registration.work.draft.key, **registration.tags}
    return client.create_model_version(name, f"models:/{model_id}", run.info.run_id, tags, model_id=model_id)


def page_paths(facts: RegisteredPages) -> dict[str, str]:
    """Return the paths in the MLflow UI of a run and a version, by the name of the page."""
    experiment_id, run_id = facts.experiment_id, facts.run_id
    return {
        "run": pages.run_path(experiment_id, run_id),
        "runs": pages.runs_path(experiment_id),
        "model version": pages.version_path(facts.model_name, facts.version),
        **{name: pages.run_path(experiment_id, run_id, artefact) for name, artefact in ARTEFACTS.items()},
    }


def page_urls(facts: RegisterFacts) -> dict[str, str]:
    """Return the URLs of the same pages; none if the tracking URI is no HTTP server."""
    base = tracking.remove_credentials(facts.tracking_uri).rstrip("/")
    if not base.startswith(("http://", "https://")):
        return {}
    return {name: f"{base}/{path}" for name, path in page_paths(facts).items()}
