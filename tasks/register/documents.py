"""Documents of models: what MLflow has of a registered one, and README.md and LICENSE beside exported weights."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import Manifest, load_ancestors
from dataops.store import Store
from dataops.trace.sources import list_training_datasets
from tasks.models.find import REGISTERED
from tasks.register.card import NO_LICENSE, Card, describe_model, list_rights, merge_counts, write_front_matter
from tasks.tracking import client as tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CARD, LICENSE = "README.md", "LICENSE"
_UNKNOWN = "It was exported from files, so its training data, its results and the rights in both are not known here."


@dataclass(frozen=True)
class Registered:
    """The manifests and the card that the MLflow run of a registered version has."""

    name: str
    """`models:/name/version`, also of a version that was named by an alias."""
    manifests: dict[str, Manifest]
    """By stage: those of the run that made the model."""
    others: list[Manifest]
    """Those of the other datasets of its training, with their ancestors."""
    license: str
    """Licence of the weights, as the config of the registration states it."""
    card: str = ""
    """The Markdown of its card."""


def fetch_manifests(model: str) -> Registered:
    """Return the manifests and the card of a registered model.

    Args:
        model: name/version or name@alias, with or without `models:/`.

    Raises: ConfigError if there is no such version, or its run has no manifests; ServiceError.
    """
    match = REGISTERED.fullmatch(model)
    assert match is not None
    client = tracking.connect()
    with tracking.mlflow_errors():
        if match["alias"]:
            version = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            version = client.get_model_version(match["name"], match["version"])
        return _fetch(client, version)


def _fetch(client: "MlflowClient", version: "ModelVersion") -> Registered:
    """Return what the run of a version has. Raises: _Unknown if it has no manifests, or damaged ones."""
    name, run = f"models:/{version.name}/{version.version}", version.run_id
    listed = {file.path for where in (None, "manifests") for file in client.list_artifacts(run, where)} if run else ()
    if run is None or "manifests/train.json" not in listed:
        raise _Unknown(f"{name}: its MLflow run has no manifests, so what it was made of is not known")
    with tempfile.TemporaryDirectory(prefix="pairmill-manifests-") as scratch:

        def read(file: str) -> str:
            return Path(client.download_artifacts(run, file, scratch)).read_text("utf-8") if file in listed else ""

        folder = Path(client.download_artifacts(run, "manifests", scratch))
        card, config = read("model_card.md"), read("config.json")
        manifests, others = dict[str, Manifest](), list[Manifest]()
        try:
            for file in sorted(folder.glob("*.json")):
                manifest = Manifest.decode(file.read_bytes())
                if file.stem == manifest.stage:
                    manifests[manifest.stage] = manifest
                else:
                    others.append(manifest)
            license_ = str(json.loads(config or "{}").get("register", {}).get("license", ""))
        except (ValidationError, ValueError, AttributeError) as error:
            raise _Unknown(f"{name}: a manifest in its MLflow run is damaged ({error})") from error
    return Registered(name, manifests, others, license_, card)


class _Unknown(ConfigError):
    """What a registered version was made of is not known."""


def describe_snapshot(train: Manifest, store: Store) -> dict[str, str]:
    """Return the documents of the model of a train snapshot, by file name."""
    manifests = load_ancestors(store, train)
    name = f"{train.stage}/{train.key}"
    if "pack" not in manifests:
        return describe_files(name)
    card = Card(name, manifests, (), "not evaluated", datasets=list_training_datasets(train, store))
    return {CARD: card.markdown(), LICENSE: _write_license(name, card.packs, "", train)}


def describe_version(model: str) -> dict[str, str]:
    """Return the documents of `models:/name/version`: the card of its registration, and the licences.

    Raises: ConfigError, ServiceError.
    """
    try:
        found = fetch_manifests(model)
    except _Unknown:
        return describe_files(model)
    if not found.card or not {"train", "pack"} <= found.manifests.keys():
        return describe_files(model)
    packs = [found.manifests["pack"], *(one for one in found.others if one.stage == "pack")]
    return {CARD: found.card, LICENSE: _write_license(model, packs, found.license, found.manifests["train"])}


def describe_files(model: str) -> dict[str, str]:
    """Return the documents of a model of which only the files are known."""
    front = write_front_matter(describe_model(model, {}, (), "", (), ()))
    return {
        CARD: f"{front}# {model}\n\nA CLIP model. {_UNKNOWN}\n\n## Licence and rights\n\n- {NO_LICENSE}\n",
        LICENSE: f"Licences of the model {model}\n\n{NO_LICENSE} {_UNKNOWN}\n",
    }


def _write_license(model: str, packs: Sequence[Manifest], license_: str, train: Manifest) -> str:
    lines = [f"Licences of the model {model}", "", *list_rights(packs, license_, train)]
    if counts := merge_counts(packs, "licenses"):
        lines += ["", "Licences that pages declared for the training pairs, with the number of pairs:", ""]
        lines += [f"{int(count):>12,}  {' '.join(str(url).split()) or 'none'}" for url, count in counts.items()]
    return "\n".join(lines).replace("`", "") + "\n"
