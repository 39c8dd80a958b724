"""How a run is written to a checkpoint, and resumed from one."""

import logging

from training import distributed
from training.checkpoints.reading import find_newest_checkpoint, restore_checkpoint
from training.checkpoints.writing import CheckpointWriter
from training.loop.metrics_log import MetricsLog
from training.loop.training_run import TrainingRun

logger = logging.getLogger(__name__)


def resume(run: TrainingRun) -> None:
    """Restore the newest valid checkpoint, and cut metrics.jsonl back to its length at that step; all ranks together."""
    metrics = run.job.output / "metrics.jsonl"
    found = None
    if distributed.rank() == 0:
        length = metrics.stat().st_size if metrics.exists() else 0
        found = find_newest_checkpoint(run.checkpoints, run.resume_digest, length)
        with metrics.open("ab") as file:
            file.truncate(found[1]["metrics_bytes"] if found else 0)
    found = distributed.broadcast_from_first(None if found is None else (found[0].name, found[1]))
    if found is None:
        return
    name, state = found
    restore_checkpoint(run.checkpoints / name, run.model, run.optimizer)
    run.step = run.saved_step = state["step"]
    run.skipped.restore(state["skipped"])
    logger.info("resumed from %s", name)


def write_checkpoint(run: TrainingRun, writer: CheckpointWriter, log: MetricsLog) -> None:
    """Start to write a checkpoint; all ranks together, since each has skipped samples, and with sharding weights."""
    skipped = run.skipped.gather()
    run.saved_step = run.step
    state = {}
    if distributed.rank() == 0:
        state = {"job": run.resume_digest, "metrics_bytes": log.sync(), "skipped": skipped}
    writer.save(run.step, run.model, run.optimizer, state)
