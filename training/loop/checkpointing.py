"""How a run is written to a checkpoint, and resumed from one."""

import logging
import sys

import torch

from dataops.errors import TrainingDiverged
from dataops.process import processor_name
from training import distributed
from training.checkpoints import CheckpointWriter, find_newest_checkpoint, restore_checkpoint
from training.loop.health import LOSS
from training.loop.metrics_log import MetricsLog
from training.loop.training_run import TrainingRun

logger = logging.getLogger(__name__)


def resume(run: TrainingRun) -> None:
    """Restore the newest valid checkpoint, and cut metrics.jsonl back to its length at that step; all ranks together."""
    metrics = run.job.output / "metrics.jsonl"
    length = metrics.stat().st_size if metrics.exists() else 0
    found = find_newest_checkpoint(run.checkpoints, run.resume_digest, length)
    if distributed.rank() == 0:
        with metrics.open("ab") as file:
            file.truncate(found[1]["metrics_bytes"] if found else 0)
    if found is None:
        return
    path, state = found
    restore_checkpoint(path, run.model, run.learner.optimizer, run.extra_tensors())
    run.step = run.saved_step = state["step"]
    if run.bad_steps is not None:
        run.bad_steps.restore(state["bad_steps"])
    if run.holdout is not None:
        run.holdout.curve = state["holdout"]
    run.skipped.restore(state["skipped"])
    logger.info("resumed from %s", path.name)
    before, now = state.get("processor"), name_processor(run.device)
    if before not in (None, now):
        logger.warning("%s was trained on %s; on %s the last bits of sums differ", path.name, before, now)


def write_checkpoint(run: TrainingRun, writer: CheckpointWriter, log: MetricsLog) -> None:
    """Start to write a checkpoint; all ranks together, since each has skipped samples, and with sharding weights."""
    skipped = run.skipped.gather()
    run.saved_step = run.step
    state = {}
    if distributed.rank() == 0:
        state = {"job": run.resume_digest, "metrics_bytes": log.sync(), "skipped": skipped}
        state["processor"] = name_processor(run.device)
        state |= {"kept": sorted(run.plan.kept_steps)} if run.plan.kept_steps else {}
        state |= {} if run.bad_steps is None else {"bad_steps": run.bad_steps.dump()}
        if run.holdout is not None:
            state["holdout"] = run.holdout.curve
            if run.config.keep == "best" and run.holdout.best is not None:
                state["best"] = run.holdout.best["step"]
    writer.save(run.step, run.model, run.learner.optimizer, state, run.extra_tensors())


def restore_best(run: TrainingRun) -> int:
    """Restore the weights of the lowest loss on the hold-out, and return their step; all ranks together.

    It is the best of those that still exist: a checkpoint that was damaged may have been the best.
    """
    assert run.holdout is not None
    kept = run.step
    for row in sorted(run.holdout.curve, key=lambda row: row[LOSS]):
        step = int(row["step"])
        if step == run.step:
            break
        found = find_newest_checkpoint(run.checkpoints, run.resume_digest, sys.maxsize, accept=step.__eq__)
        if found is not None:
            kept = step
            restore_checkpoint(found[0], run.model, run.learner.optimizer, run.extra_tensors())
            break
    if distributed.rank() == 0:
        if run.holdout.best is not None and kept != run.holdout.best["step"]:
            logger.warning(
                "the checkpoint of step %d is lost; the next best step is %d", run.holdout.best["step"], kept
            )
        logger.info("the model is that of step %d, the lowest loss on the hold-out", kept)
    return kept


def name_processor(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with the instructions that torch uses of it: bits depend on both."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"


def is_rollback_due(run: TrainingRun) -> bool:
    """Return whether the training rolls back after the current step: the one after the bad steps, or the last one.

    That step has been launched before the one before it is read. A job that was stopped between
    them rolls back after the same step.
    """
    due = None if run.bad_steps is None else run.bad_steps.due
    return due is not None and (due < run.step or run.step == run.plan.total_steps)


def roll_back(run: TrainingRun, writer: CheckpointWriter, log: MetricsLog) -> None:
    """Restore the last checkpoint before the bad steps, and continue after the current step; all ranks together.

    Only checkpoints of every `checkpoint_every` steps count: others depend on when the job was
    stopped.

    Raises: TrainingDiverged if there is none.
    """
    bad_steps, config = run.bad_steps, run.config
    assert bad_steps is not None
    assert bad_steps.due is not None
    last_good = bad_steps.due - bad_steps.limit
    writer.wait()
    found = find_newest_checkpoint(
        run.checkpoints,
        run.resume_digest,
        log.sync() if distributed.rank() == 0 else 0,
        accept=lambda step: step <= last_good and step % config.checkpoint_every == 0,
    )
    if found is None:
        raise TrainingDiverged(
            f"step {bad_steps.due}: {bad_steps.limit} bad steps in a row, and no checkpoint before them to roll back to"
        )
    name = found[0].name
    restore_checkpoint(found[0], run.model, run.learner.optimizer, run.extra_tensors())
    bad_steps.end_rollback(int(name.removeprefix("step-")), run.step)
    logger.warning(
        "%d bad steps up to step %d: rolled back to %s, going on after step %d",
        bad_steps.limit,
        bad_steps.rollbacks[-1]["after"],
        name,
        run.step,
    )
