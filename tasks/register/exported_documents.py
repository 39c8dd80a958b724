"""Write the documents of an exported model: its card as README.md, and what is known of its licences as LICENSE."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from dataops.snapshot import Manifest, load_ancestors
from dataops.store import Store
from dataops.trace.training_datasets import list_training_datasets
from tasks.models.find import REGISTERED
from tasks.register.card_front_matter import describe_model, write_front_matter
from tasks.register.card_rights import NO_LICENSE, list_rights, merge_counts
from tasks.register.model_card import Card
from tasks.tracking import client as tracking

CARD, LICENSE = "README.md", "LICENSE"
_UNKNOWN = "It was exported from files, so its training data, its results and the rights in both are not known here."
_ARTEFACTS = ("model_card.md", "config.json", "manifests/train.json", "manifests/pack.json")


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
        others = sorted(name for name in known if name.startswith("manifests/pack-"))
        card, config, train, *packs = (
            Path(client.download_artifacts(run, name, folder)) for name in (*_ARTEFACTS, *others)
        )
        try:
            trained = Manifest.decode(train.read_bytes())
            manifests = [Manifest.decode(pack.read_bytes()) for pack in packs]
            license_ = json.loads(config.read_bytes()).get("register", {}).get("license", "")
        except (ValidationError, ValueError, AttributeError):
            return describe_files(model)
        return {CARD: card.read_text("utf-8"), LICENSE: _write_license(model, manifests, str(license_), trained)}


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
