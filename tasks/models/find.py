"""Find the files of a CLIP model by the name in a config, and compute their digest. Torch is not imported.

A registered version is downloaded once, to `PAIRMILL_HOME/models`, completely or not at all: a
version never changes. The process holds the copy. Any other model is a folder or a file of this
machine.
"""

import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dataops.config import FrozenModel
from dataops.digest import canonical_json, file_sha256, files_sha256, text_sha256
from dataops.errors import ConfigError
from dataops.storage.cached_files import hold
from tasks.tracking import client as tracking
from training.model_config import MODEL_FILES

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

REGISTERED = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)(?:/(?P<version>\d+)|@(?P<alias>[A-Za-z0-9_-]+))")
MODEL_SUFFIXES = frozenset({".safetensors", ".json", ".bin", ".pt", ".pth"})
"""Suffixes of the files in a folder that may hold weights, dimensions or a vocabulary."""


class ModelFiles(FrozenModel):
    """The files of a model on this machine."""

    name: str
    """`models:/name/version` of a registered model, even if it was named by an alias; otherwise its path as given."""
    path: Path
    """A folder, or one file."""
    digest: str
    """sha256 over the names and contents of its files; of a single file, the sha256 of its content."""


def find_model(source: str, home: Path) -> ModelFiles:
    """Return the files of a model: a file, a folder, or a registered version (the prefix `models:/` is optional).

    Args:
        home: folder for the copies of registered models.

    Raises: ConfigError if there is no such model; ServiceError if MLflow does not answer.
    """
    name, path = source, Path(source).expanduser().absolute()
    if not path.exists():
        name, path = _fetch_registered(source, home)
    if path.is_file():
        return ModelFiles(name=name, path=path, digest=file_sha256(path))
    files = sorted(file for file in path.glob("*") if file.suffix in MODEL_SUFFIXES and file.is_file())
    if all((path / name) in files for name in MODEL_FILES):
        files = [path / name for name in sorted(MODEL_FILES)]  # a model of ours: its other files are never read
    if not files:
        raise ConfigError(
            f"model {source!r}: no folder with weights that you may read ({', '.join(sorted(MODEL_SUFFIXES))})"
        )
    return ModelFiles(name=name, path=path, digest=files_sha256(files))


def get_version(source: str) -> "ModelVersion":
    """Return a registered version by its number or alias.

    Raises: ConfigError if there is none; ServiceError if MLflow does not answer.
    """
    match = REGISTERED.fullmatch(source)
    if match is None:
        raise ConfigError(
            f"model {source!r}: no such file or folder, nor a registered model (models:/name/version, models:/name@alias)"
        )
    client = tracking.connect()
    with tracking.mlflow_errors():
        if match["alias"]:
            return client.get_model_version_by_alias(match["name"], match["alias"])
        return client.get_model_version(match["name"], match["version"])


def _fetch_registered(source: str, home: Path) -> tuple[str, Path]:
    """Return a registered version as `models:/name/version`, and the folder with its files."""
    version = get_version(source)
    name = f"models:/{version.name}/{version.version}"
    with tracking.mlflow_errors():
        identity = [tracking.tracking_uri(), version.name, version.version, version.creation_timestamp]
        folder = home / "models" / text_sha256(canonical_json(identity))[:16]
        while not hold(folder):
            logger.info("downloading %s", name)
            download_version(name, folder)
    return name, folder


def download_version(uri: str, folder: Path) -> None:
    """Download the files of a registered model into a new folder, completely or not at all.

    Raises: ConfigError if pairmill did not register the model.
    """
    import mlflow.artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        downloaded = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(staging), tracking_uri=tracking.tracking_uri()
            )
        )
        found = next((path.parent for path in sorted(downloaded.rglob("model.safetensors"))), None)
        if found is None or not all((found / name).is_file() for name in MODEL_FILES):
            raise ConfigError(f"{uri}: not a model that pairmill registered (no {', '.join(MODEL_FILES)} in it)")
        if not folder.is_dir():  # another process may have downloaded it meanwhile
            found.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
