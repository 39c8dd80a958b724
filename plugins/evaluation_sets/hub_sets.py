"""Download the evaluation sets of a suite from the Hub, and check the files; each set has its own folder.

huggingface_hub downloads, and resumes interrupted downloads. A set is complete when it has a `fetched.json`, which is
written last and holds the revision and every file with its sha256. The environment variable `HF_ENDPOINT` names another
server.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dataops.digest import file_sha256
from dataops.errors import ConfigError
from dataops.formatting import format_bytes
from dataops.redaction import redact
from dataops.regular_files import read_text
from dataops.store import FolderStore
from training.evaluation.sets import ASSOCIATIONS, CLASS_NAMES, DATASET_TYPE, SHARD_COUNT, TEMPLATES
from training.evaluation.suite import read_tasks
from training.evaluation.task import Task

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

RECORD = "fetched.json"
LISTS = (CLASS_NAMES, TEMPLATES, DATASET_TYPE, ASSOCIATIONS)
"""Files beside the splits that a set may have."""
MAX_SET_BYTES = 100_000_000_000
"""Maximum size of a set in bytes; those of CLIP_benchmark have up to 10 GB."""
State = Literal["fetched", "reused", "missing", "failed"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchResult:
    """The outcome for one set."""

    name: str
    source: str
    state: State
    reason: str = ""
    bytes: int = 0


class _Unavailable(Exception):
    """Raised when one set cannot be fetched."""


def fetch_suite(path: Path, data_root: Path, max_bytes: int = MAX_SET_BYTES) -> list[FetchResult]:
    """Fetch every set of a suite that has a source into `data_root`; a set that cannot be fetched has a reason.

    Args:
        max_bytes: maximum size of a set on the Hub.

    Raises: ConfigError if the file is no suite, or names no source at all.
    """
    _, labelled, problems = read_tasks(path, data_root)
    if problems:
        raise ConfigError("\n  ".join([f"{path}:", *problems]))
    tasks = [task for _, task in labelled]
    if not any(task.source or task.missing for task in tasks):
        raise ConfigError(
            f"{path}: none of its sets has a source; put their folders into the folder that you pass as --data"
        )
    results: list[FetchResult] = []
    done: dict[str, set[str]] = {}
    for task in tasks:
        splits = set(task.splits())
        if task.root in done and splits <= done[task.root]:
            continue
        results.append(_fetch(task, max_bytes))
        done.setdefault(task.root, set()).update(splits)
        logger.info("%s: %s %s", task.name, results[-1].state, results[-1].reason)
    return results


def _fetch(task: Task, max_bytes: int) -> FetchResult:
    if task.missing:
        return FetchResult(task.name, task.source, "missing", task.missing)
    folder = Path(task.root)
    if not task.source:
        if folder.is_dir():
            return FetchResult(task.name, "", "reused")
        return FetchResult(task.name, "", "missing", f"no source; put it at {folder}")
    try:
        if size := _complete_size(folder, task):
            return FetchResult(task.name, task.source, "reused", bytes=size)
        return FetchResult(task.name, task.source, "fetched", bytes=_download(task, folder, max_bytes))
    except _Unavailable as error:
        return FetchResult(task.name, task.source, "failed", redact(str(error)))


def _complete_size(folder: Path, task: Task) -> int:
    """Return the size of the set in bytes if it is complete with all splits of the task, else 0."""
    try:
        record = json.loads(read_text(folder / RECORD))
        files: dict[str, Any] = record["files"]
        is_same = record["source"] == task.source and set(task.splits()) <= set(record["splits"])
        sizes_fit = all((folder / name).stat().st_size == file["bytes"] for name, file in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return sum(file["bytes"] for file in files.values()) if is_same and sizes_fit else 0


def _download(task: Task, folder: Path, max_bytes: int) -> int:
    """Download the files of the task's splits, check each, and write the record; returns the size in bytes."""
    for name, value in {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():
        os.environ.setdefault(name, value)
    for client in ("httpx", "httpx2"):  # which log each request
        logging.getLogger(client).setLevel(logging.WARNING)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    http_errors: Any = HfHubHTTPError.__bases__  # the error of its HTTP client, whichever that is, and OSError
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        info = api.dataset_info(task.source, files_metadata=True)
        siblings = [each for each in info.siblings or [] if _is_wanted(each.rfilename, task.splits())]
        _check_listing(siblings, task, folder, max_bytes)
        files = {}
        for sibling in siblings:
            path = folder / sibling.rfilename
            _download_file(api, task.source, str(info.sha), sibling, folder)
            files[sibling.rfilename] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    except (*http_errors, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0][:200]
        raise _Unavailable(f"{task.source}: {type(error).__name__}: {first_line}") from error
    record = {"source": task.source, "revision": str(info.sha), "splits": task.splits(), "files": files}
    FolderStore(folder).put(RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    return sum(file["bytes"] for file in files.values())


def _is_wanted(name: str, splits: Sequence[str]) -> bool:
    """Return whether a file is a list or a shard of a split; a name that leads out of the folder is neither."""
    split, _, file = name.rpartition("/")
    in_split = split in splits and (file == SHARD_COUNT or re.fullmatch(r"\d{1,6}\.tar", file) is not None)
    return name in LISTS or in_split


def _check_listing(siblings: Sequence["RepoSibling"], task: Task, folder: Path, max_bytes: int) -> None:
    """Check the files that the Hub lists before any is downloaded."""
    if f"{task.split}/{SHARD_COUNT}" not in {each.rfilename for each in siblings}:
        raise _Unavailable(f"{task.source}: has no {task.split}/{SHARD_COUNT}, so it is not in CLIP_benchmark's layout")
    if unknown := [each.rfilename for each in siblings if each.size is None]:
        raise _Unavailable(f"{task.source}: the Hub does not list the size of {unknown[0]}")
    size = sum(each.size or 0 for each in siblings)
    if size > max_bytes:
        raise _Unavailable(
            f"{task.source}: its files have {format_bytes(size)}, more than {format_bytes(max_bytes)}; raise --max-bytes"
        )
    missing = sum(each.size or 0 for each in siblings if not (folder / each.rfilename).is_file())
    if missing > (free := shutil.disk_usage(_existing(folder)).free):
        raise _Unavailable(
            f"{task.source}: its files need {format_bytes(missing)}, and {folder} has {format_bytes(free)} free"
        )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _download_file(api: "HfApi", source: str, revision: str, sibling: "RepoSibling", folder: Path) -> None:
    """Download one file, unless an intact copy exists, and check it against the digest that the Hub lists."""
    path = folder / sibling.rfilename
    if path.is_file() and _is_intact(path, sibling):
        return
    api.hf_hub_download(
        source,
        sibling.rfilename,
        repo_type="dataset",
        revision=revision,
        local_dir=folder,
        force_download=path.exists(),
    )
    if not _is_intact(path, sibling):
        path.unlink()
        raise _Unavailable(
            f"{source}: {sibling.rfilename} differs from the checksum that the Hub lists; it is deleted: run it again"
        )


def _is_intact(path: Path, sibling: "RepoSibling") -> bool:
    """Return whether a file equals the Hub's: by sha256 if it is a large file, else by the id of its git blob."""
    if sibling.size is not None and path.stat().st_size != sibling.size:
        return False
    if sibling.lfs is not None:
        return file_sha256(path) == sibling.lfs.sha256
    if sibling.blob_id is None:
        return True
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == sibling.blob_id
