"""Copy the checkpoints of a job to the scratch of its snapshot in the store, so that another machine can resume it.

The trainer writes to its local disk and holds no credentials. The task that runs it copies each checkpoint while training
continues, with metrics.jsonl up to its step, and restores the newest one on a machine that has none as new.
"""

import json
import logging
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dataops.errors import PairmillError
from dataops.snapshot import Draft
from tasks.engine.grace import finish_first
from training.checkpoints.files import find_rollback_targets

logger = logging.getLogger(__name__)

WRITTEN = re.compile(r"\bcheckpoint (step-\d+) is written")
"""The line of the trainer's log that names a new checkpoint."""
METRICS, MANIFEST = "metrics.jsonl", "manifest.json"


class CheckpointMirror:
    """Copies checkpoints on its own thread. A failure of the store does not stop the training.

    Args:
        folder: the job's folder; its checkpoints/ holds those of the trainer.
        keep: number of newest checkpoints that stay in the store.
        rollback_every: steps between the checkpoints of which those that a rollback may need stay too; 0: none.
    """

    def __init__(self, draft: Draft, folder: Path, keep: int, *, rollback_every: int = 0):
        self._draft, self._folder, self._keep, self._rollback_every = draft, folder, keep, rollback_every
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._copies: list[Future[None]] = []

    def __enter__(self) -> "CheckpointMirror":
        return self

    def __exit__(self, *_: object) -> None:
        with finish_first():
            self._pool.shutdown()

    def restore(self) -> str | None:
        """Download the newest checkpoint if it is newer than those of the folder, and return its name.

        With it come those that a rollback may need.
        """
        stored = self._list_stored()
        complete = [step for step, files in stored.items() if MANIFEST in files]
        local = [path.name for path in (self._folder / "checkpoints").glob("step-*")]
        newest = max(complete, key=_step_number, default=None)
        if newest is None or any(_step_number(name) >= _step_number(newest) for name in local):
            return None
        targets = find_rollback_targets(map(_step_number, complete), self._rollback_every)
        for name in sorted({newest, *(step for step in complete if _step_number(step) in targets)} - set(local)):
            self._download(name, stored[name], is_newest=name == newest)
        logger.info("%s was restored from %s", newest, self._draft.store.uri)
        return newest

    def _download(self, name: str, files: list[str], *, is_newest: bool) -> None:
        part = self._folder / "checkpoints" / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file in files:
            if file != METRICS or is_newest:
                shutil.copyfile(self._draft.store.local(self._object_name(name, file)), part / file)
        if is_newest:
            (part / METRICS).replace(self._folder / METRICS)
        part.rename(part.with_name(name))

    def follow_log(self, line: str) -> None:
        """Queue a copy of the checkpoint that a line of the trainer's log names, if it names one."""
        if match := WRITTEN.search(line):
            self._copies.append(self._pool.submit(self._copy, match[1]))

    def _copy(self, step: str) -> None:
        source = self._folder / "checkpoints" / step
        try:
            self._draft.check_fence()
            for path in sorted(source.iterdir(), key=lambda path: path.name == MANIFEST):
                if path.name == MANIFEST:
                    self._draft.store.put(self._object_name(step, METRICS), self._read_metrics(source))
                self._draft.store.put(self._object_name(step, path.name), path)
            stored = self._list_stored()
            targets = find_rollback_targets(map(_step_number, stored), self._rollback_every)
            for old in sorted(stored, key=_step_number)[: -self._keep]:
                if _step_number(old) not in targets:
                    self._draft.store.delete([self._object_name(old, file) for file in stored[old]])
        except FileNotFoundError:
            logger.info("%s was replaced by a newer checkpoint before it was copied to the store", step)
        except (PairmillError, OSError) as error:
            logger.warning("%s is not in the store (%s: %s); training continues", step, type(error).__name__, error)

    def _read_metrics(self, checkpoint: Path) -> bytes:
        """Return metrics.jsonl up to the step of a checkpoint."""
        state = json.loads((checkpoint / "state.json").read_text("utf-8"))
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


def _step_number(name: str) -> int:
    digits = name.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1
