"""Write a dataset of torchvision in CLIP_benchmark's layout: `python -m plugins.evaluation_sets.torchvision_sets JOB.json`.

JOB.json: {"name": a class of torchvision.datasets, "splits": ["test", "train"], "output": folder, "parent_pid": null}.
torchvision downloads to `output`/.torchvision/data what is not there yet. Images that it keeps decoded are written as
PNG, so that no pixel changes.
"""

import inspect
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from dataops.errors import ConfigError, SourceError
from tasks.evaluate.suite_writer import Member, write_shard
from training.evaluation.sets import CLASS_NAMES, DEFAULT_TEMPLATE, TEMPLATES
from training.job import JobFile, run_command


class Job(JobFile):
    """The fields of a job file."""

    name: str = Field(pattern=r"^[A-Z][A-Za-z0-9]*$")
    splits: tuple[str, ...] = Field(min_length=1)
    output: Path


def write_set(job: Job) -> None:
    """Write class names, a plain prompt (unless a list of prompts exists) and the shard of each split.

    Raises: ConfigError if torchvision has no such labelled set; SourceError if its files cannot be downloaded.
    """
    sets = {split: _open(job.name, split, job.output / ".torchvision" / "data") for split in job.splits}
    classes = getattr(next(iter(sets.values())), "classes", None)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"torchvision/{job.name}: has no list of class names; bring it in CLIP_benchmark's layout")
    for split, data in sets.items():
        write_shard(job.output, "classification", _list_members(data), split)
    names = [name.replace("_", " ") for name in classes]
    (job.output / CLASS_NAMES).write_text("".join(f"{name}\n" for name in names), "utf-8")
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


def _list_members(data: Any) -> Iterator[Member]:
    for row in range(len(data)):
        image, label = data[row]
        yield f"{row:08d}.png", _png(image)
        yield f"{row:08d}.cls", str(int(label)).encode()


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code of dataops/errors.py."""
    return run_command(arguments, Job, write_set)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
