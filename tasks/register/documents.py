"""The documents of a registered model: its version, and what each box of its lineage links to.

A page that is opened as a file links to the other documents by their path in the run. In MLflow's viewer such a link opens
nothing, so pages also have the URL in MLflow of each document.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from dataops.facts import RegisteredPages
from dataops.snapshot import Manifest
from dataops.trace.sources import list_named_sources
from tasks.tracking import pages

FILES = {
    "sources": "manifests/extract.json",
    "source-2": "manifests/extract.json",
    "source-3": "manifests/extract.json",
    "extract": "manifests/extract.json",
    "queries": "filter.html",
    "filter": "filter.html",
    "download": "download.html",
    "curate": "manifests/curate.json",
    "pack": "dataset.html",
    "train": "manifests/train.json",
    "suite": "evaluation.html",
    "evaluate": "evaluation.html",
    "config": "config.json",
}
"""Path in the run of the document of each box."""


@dataclass(frozen=True)
class Documents:
    """A registered version, and where its documents are; by default a model that is not registered."""

    version: str = ""
    registered: str = ""
    """Date of the registration."""
    config_hash: str = ""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Path of the document of each box, relative to the page."""
    urls: Mapping[str, str] = field(default_factory=dict[str, str])
    """URL of each box, of the version ("model") and of the commit ("code")."""


def list_files(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Return the path of the document of each box that a model with these manifests has."""
    boxes = {"sources", "queries", "suite", "config", *manifests}
    boxes |= {f"source-{number}" for number in range(2, len(list_named_sources(manifests)) + 1)}
    found = {box: name for box, name in FILES.items() if box in boxes}
    if "pack" in manifests and not manifests["pack"].named(FILES["pack"]):  # made by an earlier version of pairmill
        found["pack"] = "manifests/pack.json"
    return {box: quote(name) for box, name in found.items()}


def list_urls(base: str, facts: RegisteredPages, boxes: Iterable[str], commit_url: str | None) -> dict[str, str]:
    """Return the URL of each box.

    Args:
        base: URL of the MLflow server; without one there are no URLs in MLflow.
        boxes: those that have a document in the run.
        commit_url: page of the commit, if there is one.
    """
    urls = {"code": commit_url} if commit_url else {}
    if not base.startswith(("http://", "https://")):
        return urls
    run = facts.experiment_id, facts.run_id
    paths = {box: pages.run_path(*run, FILES[box]) for box in boxes}
    paths["model"] = pages.version_path(facts.model_name, facts.version)
    return urls | {box: f"{base}/{path}" for box, path in paths.items()}
