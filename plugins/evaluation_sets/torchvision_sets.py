"""Write a dataset of torchvision in CLIP_benchmark's layout: `python -m plugins.evaluation_sets.torchvision_sets JOB.json`.

JOB.json: {"name": a class of torchvision.datasets, "splits": ["test", "train"], "output": folder, "parent_pid": null}.
torchvision downloads to `output`/.torchvision/data what is not there yet. Images that it keeps decoded are written as
PNG, so that no pixel changes.
"""

import inspect
import io
import json
import logging
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field, ValidationError

from dataops.errors import ConfigError, PairmillError, SourceError
from dataops.process import exit_with_parent
from training.evaluation.sets import CLASS_NAMES, DATASET_TYPE, DEFAULT_TEMPLATE, SHARD_COUNT, TEMPLATES
from training.model_config import FrozenModel

SAMPLES_A_SHARD = 10_000

logger = logging.getLogger(__name__)


class Job(FrozenModel):
    """The fields of a job file."""

    name: str = Field(pattern=r"^[A-Z][A-Za-z0-9]*$")
    splits: tuple[str, ...] = Field(min_length=1)
    output: Path
    parent_pid: int | None = Field(default=None, gt=0)


def write_set(job: Job) -> None:
    """Write class names, a plain prompt (unless a list of prompts exists) and the shards of each split.

    Raises: ConfigError if torchvision has no such labelled set; SourceError if its files cannot be downloaded.
    """
    sets = {split: _open(job.name, split, job.output / ".torchvision" / "data") for split in job.splits}
    classes = getattr(next(iter(sets.values())), "classes", None)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"torchvision/{job.name}: has no list of class names; bring it in CLIP_benchmark's layout")
    for split, data in sets.items():
        _write_split(data, job.output / split)
    names = [name.replace("_", " ") for name in classes]
    (job.output / CLASS_NAMES).write_text("".join(f"{name}\n" for name in names), "utf-8")
    (job.output / DATASET_TYPE).write_text("classification\n", "utf-8")
    if not (job.output / TEMPLATES).is_file():
        (job.output / TEMPLATES).write_text(f"{DEFAULT_TEMPLATE}\n", "utf-8")


def _open(name: str, split: str, root: Path) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ConfigError(f"torchvision/{name}: torchvision is not installed: pip install torchvision") from error
    kind = getattr(datasets, name, None)
    if not inspect.isclass(kind) or not issubclass(kind, datasets.VisionDataset):
        raise ConfigError(f"torchvision has no dataset {name}")
    accepted = inspect.signature(kind).parameters
    offered = {"split": split, "train": split == "train", "download": True}
    arguments = {key: value for key, value in offered.items() if key in accepted}
    make: Callable[..., Any] = kind
    root.mkdir(parents=True, exist_ok=True)
    try:
        return make(root, **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(
            f"torchvision/{name}: split {split} cannot be downloaded ({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _write_split(data: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shards = max(1, -(-len(data) // SAMPLES_A_SHARD))
    for shard in range(shards):
        part = folder / f".{shard}.tar.part"
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(shard * SAMPLES_A_SHARD, min(len(data), (shard + 1) * SAMPLES_A_SHARD)):
                image, label = data[row]
                _add(tar, f"{row:08d}.png", _png(image))
                _add(tar, f"{row:08d}.cls", str(int(label)).encode())
        part.replace(folder / f"{shard}.tar")
    (folder / SHARD_COUNT).write_text(f"{shards}\n", "utf-8")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    tar.addfile(entry, io.BytesIO(content))


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code of dataops/errors.py."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        job = Job.model_validate(json.loads(Path(arguments[0]).read_text("utf-8")))
        if job.parent_pid is not None:
            exit_with_parent(job.parent_pid)
        write_set(job)
    except (ValidationError, OSError, IndexError, ValueError) as error:
        logger.error("torchvision job: %s", error)
        return ConfigError.exit_code
    except PairmillError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
