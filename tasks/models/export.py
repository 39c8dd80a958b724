"""Export a trained model to another tool's format; training.export writes the files in a subprocess.

The files are written to the job's folder and copied when all are complete; a failed export leaves nothing but its log.
"""

import logging
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from dataops.digest import canonical_json
from dataops.errors import ConfigError
from dataops.snapshot import Manifest
from dataops.store import Store
from tasks.engine.subprocess_job import run_job
from tasks.models.packaging import MODEL_FILES

logger = logging.getLogger(__name__)


def export_model(folder: Path, form: str, out: Path, home: Path, documents: Mapping[str, str]) -> list[Path]:
    """Export the finished model in `folder`, and return the files in `out`.

    Args:
        form: open_clip, hf or onnx.
        out: an empty or missing folder.
        home: pairmill's own folder, for the files of the job.
        documents: texts of further files, by name.

    Raises: ConfigError if the model or the form is unknown, or `out` is not empty; JobFailed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is not empty; name a new or empty folder")
    name = sha256(canonical_json([str(folder.absolute()), form, str(out.absolute())]).encode()).hexdigest()[:16]
    work = home / "jobs" / f"export-{name}"
    shutil.rmtree(work, ignore_errors=True)
    job: dict[str, Any] = {"model": str(folder.absolute()), "format": form, "output": str(work / "made")}
    run_job("training.export", job, work, on_line=lambda line: logger.info("%s", line))
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted((work / "made").iterdir()):
        shutil.copyfile(file, out / file.name)  # with the mode of a new file: safetensors writes with 0600
    for name, text in documents.items():
        (out / name).write_text(text, "utf-8")
    shutil.rmtree(work)
    return sorted(out.iterdir())


def fetch_snapshot_model(manifest: Manifest, store: Store, folder: Path) -> Path:
    """Copy the model of a train snapshot into `folder`, and return the folder.

    Raises: ConfigError if the snapshot holds no model.
    """
    parts = {part.name for part in manifest.parts}
    if missing := [name for name in MODEL_FILES if name not in parts]:
        raise ConfigError(
            f"{manifest.stage}/{manifest.key}: has no {', '.join(missing)}; name a snapshot of the stage train"
        )
    for name in MODEL_FILES:
        shutil.copyfile(store.local(manifest.path(name)), folder / name)
    return folder
