"""Where a CLIP model's files are, by the name that a config gives it, and their digest. Torch is not imported.

A registered version (`models:/name/3`, `models:/name@alias`) is downloaded once, to `PAIRMILL_HOME/models`: a version
never changes. Everything else is a folder or a file of this machine.
"""

import logging
import re
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from dataops.home import home
from tasks import tracking
from tasks.packaging import MODEL_FILES

logger = logging.getLogger(__name__)

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
DECIDING = frozenset({".safetensors", ".json", ".bin", ".pt", ".pth"})
"""Of the files in a folder, those that may hold weights, dimensions or a vocabulary."""


class ModelFiles(BaseModel):
    """A model that is on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    """A folder, or one file."""
    digest: str
    """sha256 over the names and contents of its files; of one file its content alone, whatever it is called."""


def find_model(source: str) -> ModelFiles:
    """The files of a model.

    Raises: ConfigError where there is none of this name; ServiceError where MLflow does not answer.
    """
    path = _registered(source) if source.startswith("models:/") else Path(source).expanduser().absolute()
    if path.is_file():
        return ModelFiles(path=path, digest=file_sha256(path))
    if not path.is_dir():
        msg = f"model {source!r}: no such file or folder (and not models:/name/version or models:/name@alias)"
        raise ConfigError(msg)
    files = sorted(file for file in path.iterdir() if file.suffix in DECIDING and file.is_file())
    if all((path / name) in files for name in MODEL_FILES):
        files = [path / name for name in sorted(MODEL_FILES)]  # one of ours: what else lies there is not read
    if not files:
        msg = f"model {source!r}: the folder holds no weights ({', '.join(sorted(DECIDING))})"
        raise ConfigError(msg)
    digests = [[file.name, file_sha256(file)] for file in files]
    return ModelFiles(path=path, digest=sha256(canonical_json(digests).encode()).hexdigest())


def _registered(source: str) -> Path:
    match = REGISTERED.fullmatch(source)
    if match is None:
        msg = f"model {source!r}: write a registered model as models:/name/version or models:/name@alias"
        raise ConfigError(msg)
    client = tracking.connect()
    with tracking.mlflow_errors():
        if match["alias"]:
            version = client.get_model_version_by_alias(match["name"], match["alias"])
        else:
            version = client.get_model_version(match["name"], match["version"])
        identity = [tracking.tracking_uri(), version.name, version.version, version.creation_timestamp]
        folder = home() / "models" / sha256(canonical_json(identity).encode()).hexdigest()[:16]
        if not folder.is_dir():
            logger.info("%s is version %s of %s: downloading it", source, version.version, version.name)
            _download(f"models:/{version.name}/{version.version}", folder)
    return folder


def _download(uri: str, folder: Path) -> None:
    """Bring the files of a registered model into a new folder, whole or not at all.

    Raises: ConfigError where it is not a model of ours.
    """
    import mlflow.artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        got = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=str(staging), tracking_uri=tracking.tracking_uri()
            )
        )
        found = next((path.parent for path in sorted(got.rglob("model.safetensors"))), None)
        if found is None or not all((found / name).is_file() for name in MODEL_FILES):
            msg = f"{uri}: not a model that pairmill registered (no {', '.join(MODEL_FILES)} in it)"
            raise ConfigError(msg)
        if not folder.is_dir():  # another process was faster
            found.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
