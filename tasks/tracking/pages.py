"""The paths of MLflow's pages of runs and models, and our view of the list of runs."""

import json
from collections.abc import Iterable
from urllib.parse import quote

CLASSIC = "workflowType=machine_learning"
EXPERIMENTS = f"#/experiments?{CLASSIC}"
"""Path of the list of experiments."""
VIEW = "pairmill"
"""Name of the view, in the URL of the list."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of an experiment that holds the view, as the button "Share" of the list makes one."""


def runs_path(experiment_id: object) -> str:
    """Return the path of the list of an experiment's runs, in our view."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&{CLASSIC}"


def run_path(experiment_id: object, run_id: object, artefact: str = "") -> str:
    """Return the path of a run's page, or of one of its artefacts."""
    page = f"/artifacts/{quote(artefact)}" if artefact else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{page}?{CLASSIC}"


def version_path(name: str, version: object) -> str:
    """Return the path of the page of a registered model's version."""
    return f"#/models/{quote(name, safe='')}/versions/{version}?{CLASSIC}"


def render_view(metrics: Iterable[str]) -> str:
    """Return the value of VIEW_TAG: a list with a column for the registered model and one for each metric."""
    return json.dumps({"selectedColumns": ["attributes.`Models`", *(f"metrics.`{name}`" for name in metrics)]})
