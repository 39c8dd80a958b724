"""Place the checkpoints of an earlier training in the folder of its replay, in the trainer."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from plugins.forget.replay import ENVIRONMENT, FROM_START, PLAN, REPLAY
from training import distributed
from training.checkpoint_files import MANIFEST, STATE, step_of
from training.job import Job
from training.loop.checkpointing import name_processor
from training.model.checkpoint import write_atomically
from training.model.clip import CLIP
from training.model.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def describe_environment(device: torch.device) -> dict[str, str]:
    """Return what the bits of a training depend on beside its config and its data."""
    return {"torch": torch.__version__, "processor": name_processor(device)}


def place_checkpoints(job: Job, model: CLIP, tokenizer: Tokenizer) -> None:
    """Let the job resume from the checkpoints that the stage brought from its base, where it has none; all ranks together.

    Raises: ConfigError if the base was trained on another processor or by another torch.
    """
    here = describe_environment(next(model.parameters()).device)

    plan = json.loads((job.output / PLAN).read_text("utf-8"))
    if plan["base"] is not None and job.seed != plan["seed"]:
        raise ConfigError(f"train.forget.base: it was trained with the seed {plan['seed']}, and this is {job.seed}")
    if plan["base"] is not None and not torch.are_deterministic_algorithms_enabled():
        raise ConfigError(
            "train.forget.base: its kernels do not give the same bits at each run; only a training with "
            "deterministic = true can be repeated"
        )

    def place() -> None:
        path, replay, checkpoints = job.output / ENVIRONMENT, job.output / REPLAY, job.output / "checkpoints"
        known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"environments": []}
        known["environments"] += [] if here in known["environments"] else [here]
        if "step" not in known:
            known["step"] = _place(replay, checkpoints, tokenizer, here, job)
        write_atomically(path, canonical_json(known))
        shutil.rmtree(replay, ignore_errors=True)

    distributed.run_together(place if distributed.rank() == 0 else None)


def _place(replay: Path, checkpoints: Path, tokenizer: Tokenizer, here: dict[str, str], job: Job) -> int:
    """Move the checkpoints, the newest last, and return the step from which the job is replayed."""
    brought = sorted(replay.glob("step-*"), key=step_of)
    if not brought:
        return 0
    if (replay / "tokenizer.json").read_text("utf-8") != tokenizer.to_json():
        logger.info("forget: without the removed pairs the vocabulary is another one, so the replay begins at step 0")
        return 0
    check_environments(json.loads((replay / ENVIRONMENT).read_text("utf-8"))["environments"], here)
    digest = job.digest(placement=False)
    if not any(checkpoints.glob("step-*")):  # else this job was resumed from its copy in the store
        shutil.copyfile(replay / "metrics.jsonl", job.output / "metrics.jsonl")
    checkpoints.mkdir(exist_ok=True)
    for folder in brought:
        _readdress(folder, digest)
        if not (checkpoints / folder.name).exists():
            folder.rename(checkpoints / folder.name)
    return step_of(brought[-1])


def check_environments(known: Sequence[Mapping[str, str]], here: dict[str, str]) -> None:
    """Raise ConfigError unless a training ran in this environment alone."""
    for name, value in here.items():
        if others := sorted({one[name] for one in known} - {value}):
            what = {"torch": "torch", "processor": "the processor"}[name]
            raise ConfigError(
                f"train.forget.base: it was trained with {what} {', '.join(others)}, and this is {value}: a replay from "
                f"its checkpoints would have other bits. Run it there, or train from the start here ({FROM_START})"
            )


def _readdress(folder: Path, job: str) -> None:
    """Make a checkpoint that of another job. Raises: ConfigError if it is damaged."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    for name, digest in manifest.items():
        if file_sha256(folder / name) != digest:
            raise ConfigError(f"train.forget.base: {name} of its checkpoint {folder.name} is damaged; {FROM_START}")
    state = json.loads((folder / STATE).read_text("utf-8"))
    write_atomically(folder / STATE, canonical_json({**state, "job": job}))
    write_atomically(folder / MANIFEST, canonical_json({**manifest, STATE: file_sha256(folder / STATE)}))
