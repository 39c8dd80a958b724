"""The interface of a place to which files are published, and a folder or S3 as one."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from dataops.errors import writing
from dataops.storage.folder import TEMPORARY
from dataops.store import FolderStore, Store
from plugins.publish.bundle import BundleFile

Kind = Literal["dataset", "model"]
OnFile = Callable[[BundleFile], None]
DATA = re.compile(r".*\.(tar|parquet|idx|safetensors)", re.DOTALL)
"""Names of files that a reader of the place takes for its data."""


class Place(ABC):
    """A place, with what is there now."""

    name: str
    """As in a record: `hub:OWNER/NAME`, `s3://bucket/prefix`, or the absolute path of a folder."""

    @abstractmethod
    def find_present(self, files: Sequence[BundleFile]) -> set[str]:
        """Return the names of the files that are there with the same content."""

    @abstractmethod
    def list_names(self) -> list[str]:
        """Return the names of all files that are there."""

    @abstractmethod
    def send(self, files: Sequence[BundleFile], stale: Sequence[str], on_file: OnFile) -> str | None:
        """Send files, delete stale ones, and return the revision if the place has revisions.

        Args:
            on_file: called after each file.
        """


class StorePlace(Place):
    """A folder or a prefix in S3. Each file is written whole or not at all."""

    def __init__(self, store: Store, name: str):
        self.store, self.name = store, name

    def check(self) -> None:
        """Raise a ConfigError if it is a folder that cannot be written."""
        if isinstance(self.store, FolderStore):
            with writing(self.name, "name another place with --to"):
                self.store.root.mkdir(parents=True, exist_ok=True)
                TemporaryFile(dir=self.store.root).close()

    def find_present(self, files: Sequence[BundleFile]) -> set[str]:
        return {
            file.name
            for file in files
            if self.store.size(file.name) == file.bytes and self.store.sha256(file.name) == file.sha256
        }

    def list_names(self) -> list[str]:
        return self.store.names("")

    def send(self, files: Sequence[BundleFile], stale: Sequence[str], on_file: OnFile) -> str | None:
        if isinstance(self.store, FolderStore):  # a killed publication's half of a file may hold a pair removed since
            for folder in {(self.store.root / name).parent for name in (*(file.name for file in files), *stale)}:
                for half in filter(Path.is_file, folder.glob(TEMPORARY + "[a-z0-9_]" * 8)):
                    half.unlink(missing_ok=True)
        for file in files:
            self.store.put(file.name, file.fetch())
            on_file(file)
        self.store.delete(stale)
        return None
