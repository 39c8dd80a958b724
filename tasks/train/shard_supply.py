"""Download shards as the trainer requests them, for a dataset larger than the disk of the training machine.

The trainer holds no credentials. It writes the shards that it reads next into `wanted.json` (training/data/shard_files.py).
Those that fit are kept in its folder, in that order, and all others deleted. A shard gets its name after its checksum is
verified.
"""

import json
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dataops.digest import RememberedDigests, canonical_json, file_sha256
from dataops.errors import ContractError, PairmillError
from dataops.snapshot import Part
from dataops.store import Store
from training.data.shard_files import REFUSED, WANTED

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
END_SECONDS = 5.0
"""How long the end of a job waits for a download in progress."""


class ShardSupply:
    """Downloads and deletes the shards of a folder from a thread, inside a `with`; does nothing if `limit` is 0.

    Args:
        shards: name in the store and part of each shard, by its file name in the folder.
        folder: the trainer's shards; those of an earlier attempt are verified and used.
        limit: maximum size of the shards in the folder, in bytes.
    """

    def __init__(self, store: Store, shards: Mapping[str, tuple[str, Part]], folder: Path, limit: int):
        self._store, self._folder, self._limit = store, folder, limit
        self._stored = {name: stored for name, (stored, _) in shards.items()}
        self._parts = {name: part for name, (_, part) in shards.items()}
        self._digests = RememberedDigests(folder / "digests.json")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shards", daemon=True)

    def __enter__(self) -> "ShardSupply":
        if self._limit:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in (WANTED, REFUSED):  # of an earlier attempt
                (self._folder / name).unlink(missing_ok=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)

    def _run(self) -> None:
        try:
            self._delete_damaged()
            while not self._ended.wait(POLL_SECONDS):
                while not self._ended.is_set() and self._supply_next():
                    pass
        except Exception as error:  # the boundary of a thread: the waiting trainer must end, with this error
            logger.warning("the supply of shards ended: %s: %s", type(error).__name__, error)
            code = error.exit_code if isinstance(error, PairmillError) else 1
            part = self._folder / f".{REFUSED}"
            with suppress(OSError):
                failure = {"exit_code": code, "message": f"{type(error).__name__}: {error}"}
                part.write_text(canonical_json(failure), "utf-8", "replace")
                part.replace(self._folder / REFUSED)

    def _delete_damaged(self) -> None:
        """Delete incomplete and damaged shards of an earlier attempt."""
        for path in self._folder.glob("*.tar*"):
            part = self._parts.get(path.name)
            if part is None or path.stat().st_size != part.bytes or self._digests.sha256(path) != part.sha256:
                path.unlink()

    def _supply_next(self) -> bool:
        """Delete the shards that are not requested, and download one; return whether there may be another."""
        try:
            requested = json.loads((self._folder / WANTED).read_text("utf-8"))
        except FileNotFoundError:  # the trainer has not written it yet
            return False
        keep, free = dict[str, None](), self._limit
        for name in requested:
            if (free := free - self._parts[name].bytes) < 0:
                break
            keep[name] = None
        local = {path.name for path in self._folder.glob("*.tar")}
        for name in local - keep.keys():
            (self._folder / name).unlink()
        missing = next((name for name in keep if name not in local), None)
        if missing is not None:
            self._download(missing)
        return missing is not None

    def _download(self, name: str) -> None:
        part = self._folder / f"{name}.part"
        self._store.download(self._stored[name], part)
        if file_sha256(part) != self._parts[name].sha256:
            raise ContractError(f"shard {self._stored[name]} differs from the sha256 in its dataset's manifest")
        shard = part.rename(self._folder / name)
        self._digests.remember(shard, self._parts[name].sha256)
        self._digests.save()
