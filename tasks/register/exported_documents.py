"""Write the documents of an exported model: its card as README.md, and what is known of its licences as LICENSE."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dataops.snapshot import Manifest, load_ancestors
from dataops.store import Store
from tasks.models.find import REGISTERED
from tasks.register.model_card import Card, list_rights
from tasks.tracking import client as tracking

CARD, LICENSE = "README.md", "LICENSE"
_UNKNOWN = "It was exported from files, so its training data, its results and the rights in both are not known here."
_ARTEFACTS = ("model_card.md", "config.json", "manifests/pack.json")


def describe_snapshot(train: Manifest, store: Store) -> dict[str, str]:
    """Return the documents of the model of a train snapshot, by file name."""
    manifests = load_ancestors(store, train)
    name = f"{train.stage}/{train.key}"
    if "pack" not in manifests:
        return describe_files(name)
    card = Card(name, manifests, (), "not evaluated")
    return {CARD: card.markdown(), LICENSE: _write_license(name, manifests, "")}


def describe_version(model: str) -> dict[str, str]:
    """Return the documents of `models:/name/version`: the card of its registration, and the licences.

    Raises: ConfigError, ServiceError.
    """
    match = REGISTERED.fullmatch(model)
    assert match is not None
    client = tracking.connect()
    with tracking.mlflow_errors(), tempfile.TemporaryDirectory(prefix="pairmill-card-") as folder:
        run = client.get_model_version(match["name"], match["version"]).run_id
        if run is None:
            return describe_files(model)
        known = {file.path for where in (None, "manifests") for file in client.list_artifacts(run, where)}
        if any(name not in known for name in _ARTEFACTS):
            return describe_files(model)
        card, config, pack = (Path(client.download_artifacts(run, name, folder)) for name in _ARTEFACTS)
        try:
            manifests = {"pack": Manifest.model_validate_json(pack.read_bytes())}
            license_ = json.loads(config.read_bytes()).get("register", {}).get("license", "")
        except (ValidationError, ValueError, AttributeError):
            return describe_files(model)
        return {CARD: card.read_text("utf-8"), LICENSE: _write_license(model, manifests, str(license_))}


def describe_files(model: str) -> dict[str, str]:
    """Return the documents of a model of which only the files are known."""
    text = "Its owner has stated no licence for the weights."
    return {
        CARD: f"# {model}\n\nA CLIP model. {_UNKNOWN}\n\n## Licence and rights\n\n- {text}\n",
        LICENSE: f"Licences of the model {model}\n\n{text} {_UNKNOWN}\n",
    }


def _write_license(model: str, manifests: Mapping[str, Manifest], license_: str) -> str:
    lines = [f"Licences of the model {model}", "", *list_rights(manifests, license_)]
    counts: Any = manifests["pack"].facts.get("licenses")
    if isinstance(counts, dict) and counts:
        lines += ["", "Licences that pages declared for the training pairs, with the number of pairs:", ""]
        lines += [f"{int(count):>12,}  {' '.join(str(url).split()) or 'none'}" for url, count in counts.items()]
    return "\n".join(lines).replace("`", "") + "\n"
