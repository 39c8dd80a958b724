"""Shards for a training whose dataset is larger than its disk: brought from the store as the trainer wants them.

The trainer holds no credentials. It writes what it will read next into `wanted.json` (training/data/shard_files.py); as much of
that as fits is kept in its folder, in that order, and all else goes. Each shard is compared with its checksum before it
gets its name.
"""

import json
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ContractError, PairmillError
from dataops.snapshot import Part
from dataops.store import Store
from training.data.shard_files import REFUSED, WANTED

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
END_SECONDS = 5.0
"""How long the end of a job waits for a fetch that is under way."""


class ShardSupply:
    """Fills and empties a folder with shards, on a thread, while the `with` lasts; nothing where `limit` is 0.

    Args:
        shards: by name in the store; each file is called by the last part of its name.
        folder: the trainer's; what lies there from an earlier try is compared and used.
        limit: most bytes of shards in the folder.
    """

    def __init__(self, store: Store, shards: Mapping[str, Part], folder: Path, limit: int):
        self._store, self._folder, self._limit = store, folder, limit
        self._stored = {name.rpartition("/")[2]: name for name in shards}
        self._parts = {name.rpartition("/")[2]: part for name, part in shards.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shards", daemon=True)

    def __enter__(self) -> "ShardSupply":
        if self._limit:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in (WANTED, REFUSED):  # of an earlier try
                (self._folder / name).unlink(missing_ok=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)

    def _watch(self) -> None:
        try:
            self._look_over()
            while not self._over.wait(POLL_SECONDS):
                while not self._over.is_set() and self._step():
                    pass
        except Exception as error:  # the boundary of a thread: the trainer, which waits, must end, and say why
            logger.warning("no more shards: %s: %s", type(error).__name__, error)
            code = error.exit_code if isinstance(error, PairmillError) else 1
            part = self._folder / f".{REFUSED}"
            with suppress(OSError):
                part.write_text(canonical_json({"exit_code": code, "message": f"{type(error).__name__}: {error}"}))
                part.replace(self._folder / REFUSED)

    def _look_over(self) -> None:
        """Remove what an earlier try left and is not whole."""
        for path in self._folder.glob("*.tar*"):
            part = self._parts.get(path.name)
            if part is None or path.stat().st_size != part.bytes or file_sha256(path) != part.sha256:
                path.unlink()

    def _step(self) -> bool:
        """Remove what is not wanted, and bring one shard; whether there may be another."""
        try:
            wanted = json.loads((self._folder / WANTED).read_text("utf-8"))
        except FileNotFoundError:  # the trainer is not as far
            return False
        keep, free = dict[str, None](), self._limit
        for name in wanted:
            if (free := free - self._parts[name].bytes) < 0:
                break
            keep[name] = None
        here = {path.name for path in self._folder.glob("*.tar")}
        for name in here - keep.keys():
            (self._folder / name).unlink()
        missing = next((name for name in keep if name not in here), None)
        if missing is not None:
            self._bring(missing)
        return missing is not None

    def _bring(self, name: str) -> None:
        part = self._folder / f"{name}.part"
        self._store.download(self._stored[name], part)
        if file_sha256(part) != self._parts[name].sha256:
            raise ContractError(
                f"shard {self._stored[name]} is not what its dataset's manifest says: its sha256 is another one"
            )
        part.rename(self._folder / name)
