"""A job's checkpoints in the store, among the scratch of its snapshot: a machine may be lost, or another go on.

The trainer writes to its own disk and holds no credentials; the task that watches it copies each checkpoint, while the
trainer goes on, and puts the newest back where a machine has none as new. With it goes metrics.jsonl up to its step.
"""

import json
import logging
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dataops.errors import PairmillError
from dataops.snapshot import Draft

logger = logging.getLogger(__name__)

WRITTEN = re.compile(r"\bcheckpoint (step-\d+) is written")
"""How the trainer tells of one."""
METRICS, LAST = "metrics.jsonl", "manifest.json"


class CheckpointMirror:
    """Copies checkpoints on a thread of its own; where the store does not take one, the training goes on.

    Args:
        folder: of the job; its checkpoints/ hold the trainer's.
        keep: newest checkpoints to leave in the store.
    """

    def __init__(self, draft: Draft, folder: Path, keep: int):
        self._draft, self._folder, self._keep = draft, folder, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._copies: list[Future[None]] = []

    def __enter__(self) -> "CheckpointMirror":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def restore(self) -> str | None:
        """Fetch the newest checkpoint of the store, where it is newer than those of the folder; returns its name."""
        whole = [step for step, files in self._stored().items() if LAST in files]
        here = [path.name for path in (self._folder / "checkpoints").glob("step-*")]
        newest = max(whole, key=_number, default=None)
        if newest is None or any(_number(name) >= _number(newest) for name in here):
            return None
        part = self._folder / "checkpoints" / f".{newest}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file in self._stored()[newest]:
            shutil.copyfile(self._draft.store.local(self._name(newest, file)), part / file)
        (part / METRICS).replace(self._folder / METRICS)
        part.rename(part.with_name(newest))
        logger.info("%s was fetched from %s", newest, self._draft.store.uri)
        return newest

    def see(self, line: str) -> None:
        """Copy the checkpoint that a line of the trainer's log tells of, once those before it are copied."""
        if match := WRITTEN.search(line):
            self._copies.append(self._pool.submit(self._copy, match[1]))

    def _copy(self, step: str) -> None:
        source = self._folder / "checkpoints" / step
        try:
            self._draft.check_fence()
            for path in sorted(source.iterdir(), key=lambda path: path.name == LAST):
                if path.name == LAST:
                    self._draft.store.put(self._name(step, METRICS), self._metrics(source))
                self._draft.store.put(self._name(step, path.name), path)
            stored = self._stored()
            for old in sorted(stored, key=_number)[: -self._keep]:
                self._draft.store.delete([self._name(old, file) for file in stored[old]])
        except FileNotFoundError:
            logger.info("%s was replaced by a newer one before it was copied to the store", step)
        except (PairmillError, OSError) as error:
            logger.warning("%s is not in the store (%s: %s); training goes on", step, type(error).__name__, error)

    def _metrics(self, checkpoint: Path) -> bytes:
        state = json.loads((checkpoint / "state.json").read_text("utf-8"))
        with (self._folder / METRICS).open("rb") as file:
            return file.read(state["metrics_bytes"])

    def _stored(self) -> dict[str, list[str]]:
        """The files of each checkpoint in the store."""
        found: dict[str, list[str]] = {}
        for name in self._draft.store.names(self._draft.scratch("checkpoints")):
            step, _, file = name.rpartition("/")
            found.setdefault(step.rpartition("/")[2], []).append(file)
        return found

    def _name(self, step: str, file: str) -> str:
        return self._draft.scratch(f"checkpoints/{step}/{file}")


def _number(step: str) -> int:
    return int(step.removeprefix("step-")) if step.removeprefix("step-").isdigit() else -1
