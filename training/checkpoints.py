"""Checkpoints to resume a training from: their files, and how they are written and read. No pickle anywhere.

A checkpoint is a folder `checkpoints/step-NNNNNN` with model.safetensors, optimizer.safetensors,
state.json and, written last in it, manifest.json with the sha256 of the others. It is written under
another name and renamed, so a crash leaves none or all of it. It holds no state of a random
generator: every draw of training is a function of (seed, epoch, sample).

With sharding each rank writes its part of the tensors: model-00001-of-00008.safetensors and so on. A tensor is the rows of
its parts in the order of the files; those that each rank keeps whole are in the first file. Any number of ranks reads
them.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from dataops.digest import canonical_json, file_sha256
from dataops.regular_files import read_text, sync
from training import distributed
from training.checkpoint_files import MANIFEST, STATE, find_needed, name_tensor_file, step_of
from training.model.checkpoint import save_tensors, write_atomically
from training.sharding import WHOLE, Part, find_part, is_sharded, local_part, rows_of_part

# Find the newest valid checkpoint of a job, and load it into a model and its optimizer --------------------------------


def find_newest_checkpoint(
    folder: Path, job: str, metrics_bytes: int, accept: Callable[[int], bool] = lambda step: True
) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that is whole and of this job, with its state; log a warning for each skipped one.

    All ranks together: it is whole if the machines have all files between them, and then each machine gets those that it
    lacks.

    Args:
        folder: of this machine; may be missing.
        job: digest of the job (Job.digest without placement); a checkpoint of another job is skipped.
        metrics_bytes: length of rank 0's metrics.jsonl; a checkpoint is skipped if it needs a longer one.
        accept: whether a checkpoint of this step counts.
    """
    metrics_bytes = distributed.broadcast_from_first(metrics_bytes)
    names = {path.name for path in folder.glob("step-*") if accept(step_of(path))}
    for name in sorted(set().union(*distributed.gather_objects(list(names))), key=lambda n: step_of(Path(n)))[::-1]:
        path, files, reason = folder / name, None, None
        try:
            if name in names and distributed.is_first_of_machine():
                files = _read_valid_state(path, job, metrics_bytes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        found = distributed.gather_objects([files, reason])
        files = next((files for files, _ in found if files is not None), None)
        if files is not None:
            try:
                _share(path, files)
                return path, json.loads(files[STATE])
            except ValueError as error:
                reason = f"{type(error).__name__}: {error}"
        if reason := reason or next((reason for _, reason in found if reason), None):
            logger.warning("checkpoint %s is skipped: %s", name, reason)
    return None


def _read_valid_state(path: Path, job: str, metrics_bytes: int) -> dict[str, str]:
    """Return the texts of the manifest and of the state of a checkpoint, of which this machine may have some files only."""
    texts = {name: read_text(path / name) for name in (MANIFEST, STATE)}
    manifest, state = (json.loads(text) for text in texts.values())
    if manifest[STATE] != file_sha256(path / STATE):
        raise ValueError(f"{STATE} differs from its sha256 in {MANIFEST}")
    if state["job"] != job:
        raise ValueError("it belongs to another job")
    if state["metrics_bytes"] > metrics_bytes:
        raise ValueError("metrics.jsonl is shorter than at that step")
    parts = state.get("parts", 1)
    if (
        missing := {name_tensor_file(k, n, parts) for n in range(parts) for k in ("model", "optimizer")}
        - manifest.keys()
    ):
        raise KeyError(min(missing))
    return texts


def _share(path: Path, texts: Mapping[str, str]) -> None:
    """Give each machine the files of a checkpoint that it lacks; all ranks together.

    Args:
        texts: manifest and state.

    Raises: ValueError on all ranks if no machine has a file, with its right content.
    """
    digests = {name: sha256 for name, sha256 in sorted(json.loads(texts[MANIFEST]).items()) if name != STATE}
    is_first = distributed.is_first_of_machine()
    held = [is_first and (path / name).is_file() and file_sha256(path / name) == d for name, d in digests.items()]
    of_ranks = distributed.gather_integers([int(is_first), *map(int, held)])
    firsts = [rank for rank, (first, *_) in enumerate(of_ranks) if first]
    holders = {name: [rank for rank in firsts if of_ranks[rank][n]] for n, name in enumerate(digests, 1)}
    if absent := [name for name, ranks in holders.items() if not ranks]:
        raise ValueError(f"{absent[0]} differs from its sha256 in {MANIFEST}")
    if is_first:
        path.mkdir(parents=True, exist_ok=True)
        for name in (STATE, MANIFEST):
            if not (path / name).is_file() or read_text(path / name) != texts[name]:
                write_atomically(path / name, texts[name])
    distributed.send_files(
        {path / name: (ranks[0], [one for one in firsts if one not in ranks]) for name, ranks in holders.items()}
    )


def restore_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, extras: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Load a checkpoint's weights and moments into a model and its optimizer, and copy its extras, bit by bit.

    Each rank reads the rows that it keeps, however many ranks wrote them.

    Raises: ValueError if the checkpoint does not fit the model.
    """
    part = find_part(model)
    with ExitStack() as stack:
        listed = sorted(json.loads(read_text(path / MANIFEST)))
        weights, moments = (
            _TensorFiles([path / name for name in listed if name.startswith(kind)], stack)
            for kind in ("model", "optimizer")
        )
        own = model.state_dict()
        if own.keys() != weights.names:
            raise ValueError(f"{path}: the model's tensors differ: {sorted(own.keys() ^ weights.names)[:5]}")

        def read_into(tensor: Tensor, files: "_TensorFiles", name: str) -> Tensor:
            local = local_part(tensor)
            read = files.read(name, rows_of_part(len(tensor), part) if is_sharded(tensor) else None)
            if read.shape != local.shape:
                raise ValueError(f"{path}: {name} has the shape {tuple(read.shape)}, not {tuple(local.shape)}")
            local.copy_(read)
            return tensor

        with torch.no_grad():
            for name, tensor in own.items():
                read_into(tensor, weights, name)
            for name, tensor in extras.items():
                read_into(tensor, moments, name)
            slots = _group_slots(moments.names - extras.keys())
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    optimizer.state[parameter] = {
                        key: moments.read(f"step/{name}").to(local_part(parameter).device)
                        if key == "step"
                        else read_into(torch.empty_like(parameter), moments, f"{key}/{name}")
                        for key in slots[name]
                    }


def _group_slots(names: set[str]) -> dict[str, list[str]]:
    """Return the keys of an optimizer's state by parameter, of names such as exp_avg/logit_scale."""
    slots: dict[str, list[str]] = {}
    for key, _, name in (full.partition("/") for full in sorted(names)):
        slots.setdefault(name, []).append(key)
    return slots


class _TensorFiles:
    """Tensors whose rows lie in several files, in the order of the files.

    Args:
        stack: closes the files.
    """

    def __init__(self, paths: Sequence[Path], stack: ExitStack):
        self._files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
        self._holders: dict[str, list[Any]] = {}
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 — the file is no mapping
                self._holders.setdefault(name, []).append(file)

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return set(self._holders)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor, or some of its rows."""
        holders = self._holders[name]
        if rows is None:
            whole = [file.get_tensor(name) for file in holders]
            return whole[0] if len(whole) == 1 else torch.cat(whole)
        found, first = [], 0
        for file in holders:
            held = file.get_slice(name)
            start, stop = (min(max(row - first, 0), held.get_shape()[0]) for row in (rows.start, rows.stop))
            if start < stop or (file is holders[-1] and not found):  # a rank may keep no row of a small matrix
                found.append(held[start:stop])
            first += held.get_shape()[0]
        return torch.cat(found)


logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Write checkpoints in a thread: the step waits for the copy to the host's memory, not for the disk.

    With sharding each rank writes its part, and rank 0, or the first rank of each machine, ends the
    checkpoint when the ranks have exchanged that all parts are on disk. `save`, `check` and `wait`
    are then called by all ranks together.

    Args:
        folder: parent of the checkpoints' folders.
        keep: number of newest checkpoints that stay.
        part: what this rank writes; by default all.
        is_on_own_disk: each machine has a folder of its own, with the parts of its ranks.
        rollback_every: of the checkpoints whose step is a multiple of it, the newest two stay too; 0: none.
    """

    def __init__(
        self, folder: Path, keep: int, part: Part = WHOLE, *, is_on_own_disk: bool = False, rollback_every: int = 0
    ):
        self._folder, self._keep, self._part, self._rollback_every = folder, keep, part, rollback_every
        is_first_here = is_on_own_disk and part.count > 1 and distributed.is_first_of_machine()
        self._ends = part.is_first_copy and (part.number == 0 or is_first_here)
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
        """Let the first rank of each folder end the checkpoint, with the digests of all parts and rank 0's state."""
        assert self._writing is not None
        first = distributed.rank() == 0
        found = distributed.gather_objects([self._writing.result(), self._state if first else None])
        self._writing, self._state = None, found[0][1]
        if self._ends:
            merged = {name: sha256 for digests, _ in found for name, sha256 in digests.items()}
            self._ending = self._pool.submit(self._end, merged)

    def _end(self, digests: Mapping[str, str]) -> None:
        """Make a checkpoint valid, and delete all but the newest `keep` and those that are needed."""
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
        needed = find_needed(map(step_of, found), self._rollback_every, self._state)
        for old in found[: -self._keep]:
            if step_of(old) not in needed:
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
