"""Read the manifests of a registered model from the artefacts of its MLflow run."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import Manifest
from tasks.models.find import REGISTERED
from tasks.tracking import client as tracking

_FOLDER = "manifests"


@dataclass(frozen=True)
class Registered:
    """The manifests that the MLflow run of a registered version has."""

    name: str
    """`models:/name/version`, also of a version that was named by an alias."""
    manifests: dict[str, Manifest]
    """By stage: those of the run that made the model."""
    others: list[Manifest]
    """Those of the other datasets of its training, with their ancestors."""
    license: str
    """Licence of the weights, as the config of the registration states it."""


def fetch_manifests(model: str) -> Registered:
    """Return the manifests of a registered model.

    Args:
        model: name/version or name@alias, with or without `models:/`.

    Raises: ConfigError if there is no such version, or its run has no manifests; ServiceError.
    """
    match = REGISTERED.fullmatch(model)
    assert match is not None
    client = tracking.connect()
    with tracking.mlflow_errors(), tempfile.TemporaryDirectory(prefix="pairmill-manifests-") as scratch:
        if match["alias"]:
            version = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            version = client.get_model_version(match["name"], match["version"])
        name, run = f"models:/{version.name}/{version.version}", version.run_id
        listed = [file.path for file in client.list_artifacts(run, _FOLDER)] if run else []
        if run is None or f"{_FOLDER}/train.json" not in listed:
            raise ConfigError(f"{name}: its MLflow run has no manifests, so what it was made of is not known")
        folder = Path(client.download_artifacts(run, _FOLDER, scratch))
        has_config = any(file.path == "config.json" for file in client.list_artifacts(run))
        config = Path(client.download_artifacts(run, "config.json", scratch)).read_bytes() if has_config else b"{}"
        manifests, others = dict[str, Manifest](), list[Manifest]()
        try:
            for file in sorted(folder.glob("*.json")):
                manifest = Manifest.decode(file.read_bytes())
                if file.stem == manifest.stage:
                    manifests[manifest.stage] = manifest
                else:
                    others.append(manifest)
            license_ = str(json.loads(config).get("register", {}).get("license", ""))
        except (ValidationError, ValueError, AttributeError) as error:
            raise ConfigError(f"{name}: a manifest in its MLflow run is damaged ({error})") from error
    return Registered(name, manifests, others, license_)
