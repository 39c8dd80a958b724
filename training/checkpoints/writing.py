"""Write checkpoints while training continues."""

import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dataops.digest import canonical_json, file_sha256
from training import distributed
from training.checkpoints.files import MANIFEST, STATE, find_rollback_targets, name_tensor_file, step_of
from training.model.checkpoint import save_tensors, sync, write_atomically
from training.sharding import WHOLE, Part, is_sharded, local_part

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Write checkpoints in a thread: the step waits for the copy to the host's memory, not for the disk.

    With sharding each rank writes its part, and rank 0 ends the checkpoint when the ranks have exchanged that all parts
    are on disk. `save`, `check` and `wait` are then called by all ranks together.

    Args:
        folder: parent of the checkpoints' folders.
        keep: number of newest checkpoints that stay.
        part: what this rank writes; by default all.
        rollback_every: of the checkpoints whose step is a multiple of it, the newest two stay too; 0: none.
    """

    def __init__(self, folder: Path, keep: int, part: Part = WHOLE, *, rollback_every: int = 0):
        self._folder, self._keep, self._part, self._rollback_every = folder, keep, part, rollback_every
        self._ends = part.number == 0 and part.is_first_copy
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._step, self._state = 0, dict[str, Any]()
        self._writing: Future[dict[str, str]] | None = None
        self._ending: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: Optimizer,
        state: Mapping[str, object],
        extras: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Copy a step's weights and moments, and start to write them; waits for the checkpoint before this one.

        Args:
            state: of rank 0; it is not read on other ranks.
            extras: further tensors of the training, which lie with the moments.
        """
        if self._part.count == 1 and not self._ends:
            return
        self.wait()
        self._step, self._state = step, {**state, "step": step}
        if self._part.count > 1:
            self._state["parts"] = self._part.count
        if self._ends:
            _make_empty_folder(self._folder, step)
        if self._part.count > 1:
            distributed.gather_integers([0])  # the folder is there
        tensors = {"model": model.state_dict(), "optimizer": {**_optimizer_tensors(model, optimizer), **extras}}
        copies = {kind: self._copy_to_host(of_kind) for kind, of_kind in tensors.items()}
        write = partial(_write_part, _unfinished(self._folder, step), copies, self._part)
        if self._part.count == 1:
            self._ending = self._pool.submit(lambda: self._end(write()))
        else:
            self._writing = self._pool.submit(write)

    def check(self) -> None:
        """End a checkpoint whose parts are all on disk, without waiting for one in progress.

        Raises: OSError if this rank could not write its part.
        """
        if self._ending is not None and self._ending.done():
            self.wait()
        if self._writing is not None:
            is_written = self._writing.done()
            if is_written:
                self._writing.result()
            if all(written for (written,) in distributed.gather_integers([int(is_written)])):
                self._end_parts()

    def wait(self) -> None:
        """Wait until all is on disk.

        Raises: OSError if the disk is full or fails.
        """
        if self._writing is not None:
            self._writing.result()
            self._end_parts()
        if self._ending is not None:
            self._ending.result()
            self._ending = None

    def _copy_to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy what this rank writes: its part of the sharded tensors, and as the first one those that are whole."""
        if not self._part.is_first_copy:
            return {}
        own = {name: local_part(t) for name, t in tensors.items() if self._part.number == 0 or is_sharded(t)}
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in own.items()}

    def _end_parts(self) -> None:
        """Let rank 0 end the checkpoint, with the digests of all parts."""
        assert self._writing is not None
        digests = distributed.gather_objects(self._writing.result())
        self._writing = None
        if self._ends:
            merged = {name: sha256 for of_rank in digests for name, sha256 in of_rank.items()}
            self._ending = self._pool.submit(self._end, merged)

    def _end(self, digests: Mapping[str, str]) -> None:
        """Make a checkpoint valid, and delete all but the newest `keep`."""
        folder, part, final = (
            self._folder,
            _unfinished(self._folder, self._step),
            self._folder / f"step-{self._step:06d}",
        )
        try:
            write_atomically(part / STATE, canonical_json(self._state))
            write_atomically(part / MANIFEST, canonical_json({**digests, STATE: file_sha256(part / STATE)}))
            part.rename(final)
        except OSError:
            shutil.rmtree(part, ignore_errors=True)  # a full disk then has room for the message
            raise
        sync(folder)
        logger.info("checkpoint %s is written", final.name)
        found = sorted(folder.glob("step-*"), key=step_of)
        targets = find_rollback_targets(map(step_of, found), self._rollback_every)
        for old in found[: -self._keep]:
            if step_of(old) not in targets:
                shutil.rmtree(old)


def _unfinished(folder: Path, step: int) -> Path:
    return folder / f".step-{step:06d}.part"


def _make_empty_folder(folder: Path, step: int) -> None:
    """Make the folder for a checkpoint, in place of unfinished ones and of an invalid one of the same step."""
    for stale in (*folder.glob(".step-*.part"), folder / f"step-{step:06d}"):
        shutil.rmtree(stale, ignore_errors=True)
    _unfinished(folder, step).mkdir(parents=True)


def _write_part(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], part: Part) -> dict[str, str]:
    """Write a rank's files, and return their digests."""
    digests = {}
    if not part.is_first_copy:
        return digests
    paths = {kind: folder / name_tensor_file(kind, part.number, part.count) for kind in tensors}
    try:
        for kind, path in paths.items():
            save_tensors(tensors[kind], path)
            digests[path.name] = file_sha256(path)
    except OSError:
        for path in paths.values():
            for file in folder.glob(f"*{path.name}*"):
                file.unlink(missing_ok=True)  # a full disk then has room for the message
        if part.count == 1:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return digests


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{key}/{names[parameter]}": tensor
        for parameter, slot in optimizer.state.items()
        for key, tensor in slot.items()
    }
