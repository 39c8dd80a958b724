"""Export a trained model to another tool's format; training.export writes the files in a subprocess.

The files are written to the job's folder and copied when all are complete; a failed export leaves nothing but its log, and
a killed one no half-written file under its own name.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dataops.digest import canonical_json, text_sha256
from dataops.errors import ConfigError
from dataops.snapshot import Manifest, local_parts
from dataops.store import Store
from tasks.engine.subprocess_job import run_job
from training.exporter import find_exporter
from training.model_config import MODEL_FILES, ModelConfig

logger = logging.getLogger(__name__)

PART = ".pairmill-part"
"""Folder of unfinished files in the output. One that is there is of a killed export, which the next one completes."""


def export_model(folder: Path, form: str, out: Path, home: Path, documents: Mapping[str, str]) -> list[Path]:
    """Export the finished model in `folder`, and return the files in `out`.

    Args:
        out: an empty or missing folder.
        home: pairmill's own folder, for the files of the job.
        documents: texts of further files, by name.

    Raises: ConfigError if the folder has no model, or its format cannot hold the model; see check_target; JobFailed.
    """
    check_target(form, out)
    if missing := [name for name in MODEL_FILES if not (folder / name).is_file()]:
        raise ConfigError(
            f"{folder}: has no {', '.join(missing)}; name a model that pairmill has trained: a folder, the key of a"
            " train snapshot, or models:/name/version"
        )
    check_card((folder / "model.json").read_bytes(), form)
    model, final = str(folder.absolute()), str(out.absolute())
    work = home / "jobs" / f"export-{text_sha256(canonical_json([model, form, final]))[:16]}"
    shutil.rmtree(work, ignore_errors=True)
    job = {"model": model, "format": form, "output": str(work / "made"), "final": final}
    run_job("training.export", job, work, on_line=logger.info)
    part = out / PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for file in (work / "made").iterdir():
            shutil.copyfile(file, part / file.name)  # with the mode of a new file: safetensors writes with 0600
        for name, text in documents.items():
            (part / name).write_text(text, "utf-8")
        for file in part.iterdir():
            file.replace(out / file.name)
    finally:
        shutil.rmtree(part)
    shutil.rmtree(work)
    return sorted(out.iterdir())


def check_target(form: str, out: Path) -> None:
    """Raise a ConfigError if nothing can be exported in this format, or not to this folder."""
    find_exporter(form)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / PART).exists():
        raise ConfigError(f"{out}: is not empty; name a new or empty folder")


def check_card(card: bytes, form: str) -> None:
    """Raise a ConfigError if a format cannot hold the model of a model.json; an invalid one is left to the job."""
    with suppress(ValueError, TypeError, RecursionError):
        fields = json.loads(card)
        config = ModelConfig.model_validate({n: v for n, v in fields.items() if n in ModelConfig.model_fields})
        find_exporter(form).check(config)


def fetch_snapshot_model(manifest: Manifest, store: Store, folder: Path, form: str) -> Path:
    """Copy the model of a train snapshot into `folder`, and return the folder.

    Raises: ConfigError if the snapshot holds no model, or the format cannot hold it.
    """
    parts = {part.name for part in manifest.parts}
    if missing := [name for name in MODEL_FILES if name not in parts]:
        raise ConfigError(
            f"{manifest.stage}/{manifest.key}: has no {', '.join(missing)}; name a snapshot of the stage train"
        )
    check_card(store.read(manifest.path("model.json")), form)
    for name, path in local_parts(store, manifest, MODEL_FILES).items():
        shutil.copyfile(path, folder / name)
    return folder
