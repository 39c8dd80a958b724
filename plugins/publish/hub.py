"""A repository of the Hugging Face Hub, through huggingface_hub. HF_ENDPOINT names another server.

The library finds the token: HF_TOKEN, or that of `hf auth login`. It is in no message and no record.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dataops.errors import ConfigError, ServiceError
from plugins.publish.bundle import BundleFile
from plugins.publish.places import Kind, OnFile, Place
from plugins.publish.publications import HUB

FILES_OF_COMMIT = 100
"""Number of files of a commit. An interrupted publication continues after the last commit; of the next one, the
files that the Hub has received are not sent again."""
_FORBIDDEN = (401, 403)
_PASSING = (408, 429)


class HubPlace(Place):
    """A repository, which is created at the first file, private unless it is to be public."""

    def __init__(self, repository: str, kind: Kind, *, is_public: bool, files_of_commit: int = FILES_OF_COMMIT):
        self._files_of_commit = files_of_commit
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        for client in ("httpx", "httpx2"):  # which log each request
            logging.getLogger(client).setLevel(logging.WARNING)
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        self.name, self.repository, self.kind, self.is_public = f"{HUB}{repository}", repository, kind, is_public
        self.api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
        self._info: Any = None

    def _read(self) -> Any:
        """Return what the Hub knows of the repository; None if there is none, or none that this login may see.

        Raises: ConfigError if it is public, and `--public` is not given.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        if self._info is None:
            with self._errors():
                try:
                    info = self.api.repo_info(self.repository, repo_type=self.kind, files_metadata=True)
                except RepositoryNotFoundError:
                    return None
            if not info.private and not self.is_public:
                raise ConfigError(f"{self.name} is public; add --public, or make the repository private on the Hub")
            self._info = info
        return self._info

    def find_present(self, files: Sequence[BundleFile]) -> set[str]:
        info = self._read()
        by_name = {one.rfilename: one for one in (info.siblings or [])} if info else {}
        return {file.name for file in files if file.name in by_name and self._is_same(file, by_name[file.name])}

    def _is_same(self, file: BundleFile, sibling: Any) -> bool:
        if sibling.size != file.bytes:
            return False
        if sibling.lfs:
            return str(sibling.lfs.sha256) == file.sha256
        return sibling.blob_id == _compute_git_id(file.fetch().read_bytes())

    def list_names(self) -> list[str]:
        info = self._read()
        return [one.rfilename for one in info.siblings or []] if info else []

    def send(self, files: Sequence[BundleFile], stale: Sequence[str], on_file: OnFile) -> str | None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        info = self._read()
        revision = str(info.sha) if info else None
        with self._errors():
            if info is None:
                self.api.create_repo(self.repository, repo_type=self.kind, private=not self.is_public, exist_ok=True)
            elif info.private and self.is_public:
                self.api.update_repo_settings(self.repository, repo_type=self.kind, private=False)
            size = self._files_of_commit
            for start in range(0, max(len(files), 1), size):
                group = files[start : start + size]
                is_last = start + size >= len(files)
                operations: list[Any] = []
                for file in group:
                    added = CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file.fetch()))
                    self.api.preupload_lfs_files(self.repository, [added], repo_type=self.kind, free_memory=False)
                    operations.append(added)
                    on_file(file)
                operations += [CommitOperationDelete(path_in_repo=name) for name in (stale if is_last else ())]
                if operations:
                    message = f"Publish {len(group)} files with pairmill"
                    commit = self.api.create_commit(
                        self.repository, operations, commit_message=message, repo_type=self.kind
                    )
                    revision = str(commit.oid)
        return revision

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate errors of the library: a refused login is one of the user, others may pass."""
        from huggingface_hub.errors import HfHubHTTPError

        http_errors: Any = HfHubHTTPError.__bases__  # the error of its HTTP client, whichever that is, and OSError
        try:
            yield
        except (*http_errors, ValueError, RuntimeError) as error:
            cause: Any = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            status = getattr(getattr(cause, "response", None), "status_code", None)
            text = f"{self.name}: {type(cause).__name__}: {str(cause).strip().partition(chr(10))[0][:200]}"
            if status in _FORBIDDEN:
                raise ConfigError(
                    f"{text}; log in with `hf auth login`, or set HF_TOKEN to a token that may write there"
                ) from None
            if status in _PASSING or (status is None and not isinstance(cause, ValueError)):
                raise ServiceError(f"{text}; the same command continues") from None
            if status is None or status < 500:
                raise ConfigError(text) from None
            raise ServiceError(f"{text}; the same command continues") from None


def _compute_git_id(data: bytes) -> str:
    """Return the id of a git blob."""
    import hashlib

    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
