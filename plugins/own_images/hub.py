"""Find and fetch files of datasets on the Hugging Face Hub: `hf://datasets/OWNER/NAME[@REVISION]/PATTERN`."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dataops.errors import ConfigError, SourceError, UnusableSource
from dataops.regular_files import open_regular
from tasks.files.base import OpenFile, SourceFile
from tasks.files.s3_file import glob_to_regex

PREFIX = "hf://datasets/"
_PATTERN = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w.~-]+))?(?:/(.*))?")


@dataclass(frozen=True)
class HubFile(SourceFile):
    """A file of a revision of a dataset. It is fetched into the cache of huggingface_hub."""

    name: str
    repository: str
    revision: str
    content: str
    """Its digest, as the Hub lists it."""
    size: int

    def digest(self) -> str:
        return self.content

    def stored_bytes(self) -> int | None:
        return self.size

    def open(self) -> OpenFile:
        with self.local() as path:
            return open_regular(path)

    @contextmanager
    def local(self) -> Iterator[Path]:
        with _hub(self.repository) as (api, _):
            place = {"repo_type": "dataset", "revision": self.revision, "cache_dir": os.environ.get("HF_HUB_CACHE")}
            path = api.hf_hub_download(self.repository, self.name, **place)
        yield Path(path)


@contextmanager
def _hub(name: str) -> Iterator[tuple[Any, Any]]:
    """Provide the client, and translate its errors. HF_ENDPOINT and HF_TOKEN hold. Raises: SourceError."""
    for key, value in {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}.items():
        os.environ.setdefault(key, value)
    for client in ("httpx", "httpx2"):  # which log each request
        logging.getLogger(client).setLevel(logging.WARNING)
    from huggingface_hub import HfApi, errors

    http_errors: Any = errors.HfHubHTTPError.__bases__
    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None), errors
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        what = "is gated, and needs HF_TOKEN" if isinstance(error, errors.GatedRepoError) else "is not there"
        remedy = "check its name; a private one needs HF_TOKEN"
        raise UnusableSource(f"{PREFIX}{name}: the dataset or a file of it {what}; {remedy}") from error
    except (*http_errors, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0][:200]
        raise SourceError(f"{PREFIX}{name}: {type(error).__name__}: {first_line}") from error


@lru_cache(maxsize=16)
def find_hub_files(pattern: str) -> tuple[HubFile, ...]:
    """Return the Parquet files that a pattern matches; without one, all of the dataset. A process asks the Hub once.

    Raises: ConfigError if the pattern is wrong or matches none; SourceError if the Hub does not answer.
    """
    found = _PATTERN.fullmatch(pattern)
    if not found:
        raise ConfigError(
            f"{pattern!r} is no dataset of the Hub; write {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME/*.parquet"
        )
    repository, revision, path = found.groups()
    with _hub(repository) as (api, _):
        info = api.dataset_info(repository, revision=revision, files_metadata=True)
    matches = re.compile(glob_to_regex(path or "**/*.parquet")).fullmatch
    files = [
        HubFile(
            one.rfilename, repository, str(info.sha), one.lfs.sha256 if one.lfs else str(one.blob_id), one.size or 0
        )
        for one in info.siblings or []
        if matches(one.rfilename)
    ]
    if not files:
        names = ", ".join(one.rfilename for one in (info.siblings or [])[:10]) or "none"
        raise ConfigError(f"{pattern!r} matches no file; the dataset has: {names}")
    return tuple(sorted(files, key=lambda file: file.name))
