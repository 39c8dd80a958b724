"""Copy the checkpoints of a job to the scratch of its snapshot in the store, so that another machine can resume it.

The trainer writes to its local disk and holds no credentials. The task that runs it copies each
checkpoint while training continues, with metrics.jsonl up to its step, and restores the newest one
on a machine that has none as new.
"""

import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from dataops.digest import RememberedDigests, canonical_json, file_sha256
from dataops.errors import ContractError, PairmillError, StorageError
from dataops.snapshot import Draft, Part
from dataops.store import Store
from tasks.engine.process_guard import GRACE_SECONDS, finish_first
from training.checkpoint_files import MANIFEST, STATE, find_needed
from training.data.shard_files import REFUSED, WANTED

logger = logging.getLogger(__name__)

# Shards that the trainer requests, of a dataset larger than its disk ---------------------------------------------------
# The trainer holds no credentials. It writes the shards that it reads next into `wanted.json`
# (training/data/shard_files.py). Those that fit are kept in its folder, in that order, and all others deleted. A
# shard gets its name after its checksum is verified.

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


WRITTEN = re.compile(r"\bcheckpoint (step-\d+) is written")
"""The line of the trainer's log that names a new checkpoint."""
METRICS = "metrics.jsonl"
NODE = re.compile(r"node-\d+\.json")
"""Object with the digests of the parts that another node than the first has copied."""
PARTS_SECONDS = 600.0
"""How long the first node waits for the parts of the others; GRACE_SECONDS when the training has ended."""


class CheckpointMirror:
    """Copies checkpoints on its own thread. A failure of the store does not stop the training.

    Where several nodes have parts of a checkpoint, each copies its own, with their digests in `node-N.json`. The first
    one copies the manifest last, when all parts that it lists are there: without it, a checkpoint does not count.

    Args:
        folder: the job's folder on this node; its checkpoints/ holds those of the trainer.
        keep: number of newest checkpoints that stay in the store.
        rollback_every: steps between the checkpoints of which those that a rollback may need stay too; 0: none.
        node: number of this node.
    """

    def __init__(self, draft: Draft, folder: Path, keep: int, *, rollback_every: int = 0, node: int = 0):
        self._draft, self._folder, self._keep, self._rollback_every = draft, folder, keep, rollback_every
        self._node, self._ended = node, threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._copies: list[Future[None]] = []

    def __enter__(self) -> "CheckpointMirror":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with finish_first():
            self._pool.shutdown()

    def restore(self) -> str | None:
        """Download the newest checkpoint if it is newer than those that are whole in the folder, and return its name.

        With it come those that a rollback, or the end of the training, may need.
        """
        stored = self._list_stored()
        complete = [step for step, files in stored.items() if MANIFEST in files]
        found = list((self._folder / "checkpoints").glob("step-*"))
        whole = {path.name for path in found if _is_whole(path)}
        newest = max(complete, key=_step_number, default=None)
        if newest is None or any(_step_number(name) >= _step_number(newest) for name in whole):
            return None
        state = json.loads(self._draft.store.read(self._object_name(newest, STATE)))
        needed = find_needed(map(_step_number, complete), self._rollback_every, state)
        has_newer = any(_step_number(path.name) > _step_number(newest) for path in found)  # of which others have parts
        for name in sorted({newest, *(step for step in complete if _step_number(step) in needed)} - whole):
            self._download(name, stored[name], with_metrics=name == newest and not has_newer)
        logger.info("%s was restored from %s", newest, self._draft.store.uri)
        return newest

    def _download(self, name: str, files: list[str], *, with_metrics: bool) -> None:
        part = self._folder / "checkpoints" / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file in files:
            if not NODE.fullmatch(file) and (file != METRICS or with_metrics):
                shutil.copyfile(self._draft.store.local(self._object_name(name, file)), part / file)
        if with_metrics:
            (part / METRICS).replace(self._folder / METRICS)
        shutil.rmtree(part.with_name(name), ignore_errors=True)  # it had parts only
        part.rename(part.with_name(name))

    def follow_log(self, line: str) -> None:
        """Queue a copy of the checkpoint that a line of the trainer's log names, if it names one."""
        if match := WRITTEN.search(line):
            self._copies.append(self._pool.submit(self._copy, match[1]))

    def _copy(self, step: str) -> None:
        source = self._folder / "checkpoints" / step
        try:
            self._draft.check_fence()
            digests = _read_digests(source)
            own = {name: sha256 for name, sha256 in digests.items() if name != STATE and (source / name).exists()}
            for name in own:
                self._draft.store.put(self._object_name(step, name), source / name)
            if self._node:
                self._draft.store.put(self._object_name(step, f"node-{self._node}.json"), canonical_json(own).encode())
                return
            self._wait_for_parts(step, {name: digests[name] for name in digests.keys() - own.keys() - {STATE}})
            self._draft.store.put(self._object_name(step, STATE), source / STATE)
            self._draft.store.put(self._object_name(step, METRICS), self._read_metrics(source))
            self._draft.store.put(self._object_name(step, MANIFEST), source / MANIFEST)
            stored = self._list_stored()
            state = json.loads((source / STATE).read_text("utf-8"))
            needed = find_needed(map(_step_number, stored), self._rollback_every, state)
            for old in sorted(stored, key=_step_number)[: -self._keep]:
                if _step_number(old) not in needed:
                    of_step = sorted(
                        stored[old], key=lambda file: file != MANIFEST
                    )  # first, so that no half one counts
                    self._draft.store.delete([self._object_name(old, file) for file in of_step])
        except FileNotFoundError:
            logger.info("%s was replaced by a newer checkpoint before it was copied to the store", step)
        except (PairmillError, OSError) as error:
            logger.warning("%s is not in the store (%s: %s); training continues", step, type(error).__name__, error)

    def _wait_for_parts(self, step: str, missing: Mapping[str, str]) -> None:
        """Wait until the other nodes have copied their parts.

        Args:
            missing: sha256 of each, by name.

        Raises: StorageError if they do not.
        """
        began, pause, copied = time.monotonic(), POLL_SECONDS, set[tuple[str, str]]()
        while not missing.items() <= copied:
            limit = GRACE_SECONDS if self._ended.is_set() else PARTS_SECONDS
            if time.monotonic() - began > limit:
                raise StorageError(f"other nodes did not copy {min(missing.items() - copied)[0]} within {limit:.0f} s")
            time.sleep(pause := min(2 * pause, 2.0))
            names = [name for name in self._list_stored().get(step, ()) if NODE.fullmatch(name)]
            for name in names:
                copied |= set(json.loads(self._draft.store.find(self._object_name(step, name)) or b"{}").items())

    def _read_metrics(self, checkpoint: Path) -> bytes:
        """Return metrics.jsonl up to the step of a checkpoint."""
        state = json.loads((checkpoint / STATE).read_text("utf-8"))
        with (self._folder / METRICS).open("rb") as file:
            return file.read(state["metrics_bytes"])

    def _list_stored(self) -> dict[str, list[str]]:
        """Return the files of each checkpoint in the store."""
        found: dict[str, list[str]] = {}
        for name in self._draft.store.names(self._draft.scratch("checkpoints")):
            step, _, file = name.rpartition("/")
            found.setdefault(step.rpartition("/")[2], []).append(file)
        return found

    def _object_name(self, step: str, file: str) -> str:
        return self._draft.scratch(f"checkpoints/{step}/{file}")


def _read_digests(checkpoint: Path) -> dict[str, str]:
    """Return the sha256 of each file of a checkpoint, of which this machine may have some only."""
    return json.loads((checkpoint / MANIFEST).read_text("utf-8"))


def _is_whole(checkpoint: Path) -> bool:
    try:
        return all((checkpoint / name).exists() for name in _read_digests(checkpoint))
    except (OSError, ValueError):  # the trainer skips it too
        return False


def _step_number(name: str) -> int:
    digits = name.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1
