"""`pairmill export`: a trained model in the form of others' tools, made by training.export in a subprocess.

The files are made in a scratch folder and put into place when all are there, so a failed export leaves nothing behind.
"""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError
from dataops.snapshot import Manifest
from dataops.store import Store
from tasks import tracking
from tasks.job import run_job
from tasks.packaging import MODEL_FILES
from tasks.scratch import scratch_folder

REGISTERED = re.compile(r"^models:/([^/@]+)(?:/(\d+)|@([A-Za-z0-9_-]+))$")

logger = logging.getLogger(__name__)


def export_model(folder: Path, form: str, out: Path) -> list[Path]:
    """Export the finished model in `folder`.

    Args:
        form: open_clip, hf or onnx.
        out: a folder that is empty or not there yet.

    Returns: the files in `out`.
    Raises: ConfigError where the model or the form is none, or `out` holds something; JobFailed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"{out}: is not empty; name a folder that is not there yet"
        raise ConfigError(msg)
    with scratch_folder("export") as scratch:
        job: dict[str, Any] = {"model": str(folder.absolute()), "format": form, "output": str(scratch / "made")}
        run_job("training.export", job, scratch / "job", on_line=lambda line: logger.info("%s", line))
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted((scratch / "made").iterdir()):
            shutil.move(file, out / file.name)
    return sorted(out.iterdir())


def snapshot_files(manifest: Manifest, store: Store, folder: Path) -> Path:
    """Bring the model of a train snapshot into `folder`.

    Raises: ConfigError where the snapshot holds no model.
    """
    parts = {part.name for part in manifest.parts}
    if missing := [name for name in MODEL_FILES if name not in parts]:
        msg = f"{manifest.stage}/{manifest.key}: has no {', '.join(missing)}; name a snapshot of the stage train"
        raise ConfigError(msg)
    for name in MODEL_FILES:
        shutil.copyfile(store.local(manifest.path(name)), folder / name)
    return folder


def registered_files(model: str, folder: Path) -> Path | None:
    """Bring `models:/name/version` or `models:/name@alias` into `folder`; None where `model` is no such name.

    Raises: ConfigError where MLflow knows no such version, or pairmill did not make it; ServiceError.
    """
    found = REGISTERED.match(model)
    if found is None:
        return None
    name, version, alias = found.groups()
    client = tracking.connect()
    with tracking.mlflow_errors():
        from mlflow.artifacts import download_artifacts

        chosen = client.get_model_version(name, version) if version else client.get_model_version_by_alias(name, alias)
        uri = f"models:/{name}/{chosen.version}/artifacts/model"
        download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=tracking.tracking_uri())
    files = folder / "model"
    if not all((files / name).is_file() for name in MODEL_FILES):
        msg = f"{model}: was not made by pairmill: it has no {', '.join(MODEL_FILES)}"
        raise ConfigError(msg)
    return files
