"""Evaluation sets from the Hub: the files that a suite needs, checked, into one folder a set.

huggingface_hub downloads, and resumes what was cut off. A set is whole when its `fetched.json` is there, which is
written last and names the revision and every file with its sha256. The server is `HF_ENDPOINT`, where the environment
names one. A set of torchvision's is written into the same layout by training/evaluation/torchvision_sets.py.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dataops.digest import file_sha256
from dataops.errors import ConfigError, PairmillError
from dataops.redaction import redact
from dataops.store import FolderStore
from tasks.engine.subprocess_job import run_job
from training.evaluation.sets import ASSOCIATIONS, CLASS_NAMES, DATASET_TYPE, SHARD_COUNT, TEMPLATES
from training.evaluation.suite import read_tasks
from training.evaluation.task import Task

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

RECORD = "fetched.json"
LISTS = (CLASS_NAMES, TEMPLATES, DATASET_TYPE, ASSOCIATIONS)
TORCHVISION = "torchvision/"
State = Literal["fetched", "reused", "missing", "failed"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchResult:
    """What became of one set."""

    name: str
    source: str
    state: State
    reason: str = ""
    bytes: int = 0


class _Unavailable(Exception):
    """This set cannot be had, the others can."""


def fetch_suite(path: Path, data_root: Path) -> list[FetchResult]:
    """Bring every set of a suite that has a source into `data_root`; what cannot be had is listed with its reason.

    Raises: ConfigError where the file is no suite, or names no source at all.
    """
    _, labelled, problems = read_tasks(path, data_root)
    if problems:
        raise ConfigError("\n  ".join([f"{path}:", *problems]))
    tasks = [task for _, task in labelled]
    if not any(task.source or task.missing for task in tasks):
        raise ConfigError(
            f"{path}: none of its sets has a source; put their folders below the folder that you give as --data"
        )
    results: list[FetchResult] = []
    done: dict[str, set[str]] = {}
    for task in tasks:
        wanted = set(task.splits())
        if task.root in done and wanted <= done[task.root]:
            continue
        results.append(_fetch(task))
        done.setdefault(task.root, set()).update(wanted)
        logger.info("%s: %s %s", task.name, results[-1].state, results[-1].reason)
    return results


def _fetch(task: Task) -> FetchResult:
    if task.missing:
        return FetchResult(task.name, task.source, "missing", task.missing)
    folder = Path(task.root)
    if not task.source:
        there = folder.is_dir()
        return FetchResult(
            task.name, "", "reused" if there else "missing", "" if there else f"no source; put it at {folder}"
        )
    if task.source.startswith(TORCHVISION):
        return _from_torchvision(task, folder)
    try:
        if whole := _whole(folder, task):
            return FetchResult(task.name, task.source, "reused", bytes=whole)
        return FetchResult(task.name, task.source, "fetched", bytes=_download(task, folder))
    except _Unavailable as error:
        return FetchResult(task.name, task.source, "failed", redact(str(error)))


def _whole(folder: Path, task: Task) -> int:
    """Bytes of the set where it is there with all wanted splits, else 0."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        files: dict[str, Any] = record["files"]
        asked_before = record["source"] == task.source and set(task.splits()) <= set(record["splits"])
        sizes_fit = all((folder / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return sum(file["bytes"] for file in files.values()) if asked_before and sizes_fit else 0


def _download(task: Task, folder: Path) -> int:
    """Bring the files of the wanted splits, check each, and write the record."""
    for name, value in {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():
        os.environ.setdefault(name, value)
    for client in ("httpx", "httpx2"):  # which tell each request
        logging.getLogger(client).setLevel(logging.WARNING)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    refused: Any = HfHubHTTPError.__bases__  # its HTTP client's error, whichever client that is, and OSError
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        info = api.dataset_info(task.source, files_metadata=True)
        siblings = [each for each in info.siblings or [] if _is_wanted(each.rfilename, task.splits())]
        _check_listing([each.rfilename for each in siblings], task)
        files = {}
        for sibling in siblings:
            _bring(api, task.source, str(info.sha), sibling, folder)
            path = folder / sibling.rfilename
            files[sibling.rfilename] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    except (*refused, ValueError) as error:
        raise _Unavailable(
            f"{task.source}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        ) from error
    _write_record(folder, task, str(info.sha), files)
    return sum(file["bytes"] for file in files.values())


def _from_torchvision(task: Task, folder: Path) -> FetchResult:
    """Write a torchvision set into our layout; torchvision downloads it where it can."""
    if not _whole(folder, task):
        job = {"name": task.source.removeprefix(TORCHVISION), "splits": task.splits(), "output": str(folder)}
        try:
            run_job("training.evaluation.torchvision_sets", job, folder / ".torchvision")
        except PairmillError as error:
            return FetchResult(task.name, task.source, "failed", redact(str(error)).strip().splitlines()[-1])
        names = [name for name in LISTS if (folder / name).is_file()]
        names += [path.relative_to(folder).as_posix() for split in task.splits() for path in (folder / split).iterdir()]
        files = {
            name: {"bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}
            for name in sorted(names)
        }
        _write_record(folder, task, "", files)
        return FetchResult(task.name, task.source, "fetched", bytes=_whole(folder, task))
    return FetchResult(task.name, task.source, "reused", bytes=_whole(folder, task))


def _write_record(folder: Path, task: Task, revision: str, files: dict[str, Any]) -> None:
    record = {"source": task.source, "revision": revision, "splits": task.splits(), "files": files}
    FolderStore(folder).put(RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def _is_wanted(name: str, splits: Sequence[str]) -> bool:
    """Lists and shards only; no name that leads out of the folder fits."""
    split, _, file = name.rpartition("/")
    in_split = split in splits and (file == SHARD_COUNT or re.fullmatch(r"\d{1,6}\.tar", file) is not None)
    return name in LISTS or in_split


def _check_listing(names: Iterable[str], task: Task) -> None:
    if f"{task.split}/{SHARD_COUNT}" not in set(names):
        raise _Unavailable(f"{task.source}: has no {task.split}/{SHARD_COUNT}, so it is not in CLIP_benchmark's layout")


def _bring(api: "HfApi", source: str, revision: str, sibling: "RepoSibling", folder: Path) -> None:
    """Download one file, unless it is there and whole; check it against the digest that the Hub names."""
    path = folder / sibling.rfilename
    if path.is_file() and _is_intact(path, sibling):
        return
    for attempt in range(2):
        api.hf_hub_download(
            source,
            sibling.rfilename,
            repo_type="dataset",
            revision=revision,
            local_dir=folder,
            force_download=attempt > 0 or path.exists(),
        )
        if _is_intact(path, sibling):
            return
        logger.warning("%s of %s has another checksum than the Hub names", sibling.rfilename, source)
    path.unlink()
    raise _Unavailable(f"{source}: {sibling.rfilename} twice came with another checksum than the Hub names")


def _is_intact(path: Path, sibling: "RepoSibling") -> bool:
    """Whether a file is the Hub's: by sha256 where it is a large one, else by the id that git gives to its content."""
    if sibling.size is not None and path.stat().st_size != sibling.size:
        return False
    if sibling.lfs is not None:
        return file_sha256(path) == sibling.lfs.sha256
    if sibling.blob_id is None:
        return True
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == sibling.blob_id


def as_rows(results: Iterable[FetchResult]) -> list[dict[str, Any]]:
    """For tables and --json."""
    return [asdict(result) for result in results]
