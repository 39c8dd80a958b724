"""The values of each step, read one step late, so that the host never waits for a step that the GPU has just begun."""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dataops.errors import ContractError, TrainingDiverged
from training import distributed
from training.checkpoints import CheckpointWriter
from training.data.loader import Batch
from training.loop.metrics_log import MetricsLog
from training.loop.step import StepValues
from training.loop.training_run import TrainingRun

# What every rank must have before a step, exchanged on the host --------------------------------------------------------


class Agreement(NamedTuple):
    """Facts about the next step, equal on all ranks."""

    pairs_of_ranks: list[int]
    """Pairs of each rank."""
    tokens: int
    """Tokens of all ranks."""
    padded: int
    """Sum of StepInputs.padded over the ranks."""
    stop: bool
    """True if any rank received SIGTERM."""


def agree(run: TrainingRun, batch: Batch) -> Agreement:
    """Exchange the facts about the next step; all ranks together.

    Raises: ContractError if too many samples of all ranks, or all of one rank's batch, could not be read.
    """
    inputs = batch.inputs
    own = [len(batch.captions), inputs.tokens, inputs.padded, run.stop_requested, run.skipped.add(batch)]
    pairs, tokens, padded, stops, skipped = zip(*distributed.gather_integers(own), strict=True)
    if any(skipped):
        run.skipped.check()
    if 0 in pairs:
        raise ContractError(f"no sample of step {batch.step} can be read on rank {pairs.index(0)}")
    return Agreement(list(pairs), sum(tokens), sum(padded), any(stops))


class DelayedValues:
    """The values of a step on their way to the host.

    `ended` is the time at which the step had ended, by time.perf_counter; on a GPU it is that of
    the read.

    Args:
        values_V: those of StepValues, on the device.
    """

    def __init__(self, values_V: Tensor):
        self._values_V, self._arrived, self.ended = values_V, None, time.perf_counter()
        if values_V.device.type == "cuda":
            self._values_V = torch.empty(values_V.shape, dtype=values_V.dtype, pin_memory=True)
            self._values_V.copy_(values_V, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> StepValues:
        """Wait until the step has ended, and return its values: the only wait of the host for the device in a step."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self.ended = time.perf_counter()
        return StepValues(*self._values_V.tolist())


@dataclass(frozen=True)
class TakenStep:
    """A step that the device may still compute."""

    step: int
    lr: float
    agreed: Agreement
    flops: float
    """Operations of all ranks."""
    values: DelayedValues


class StepRecorder:
    """Check the values of each step and write its row, when the next step has been launched."""

    def __init__(self, run: TrainingRun, log: MetricsLog, writer: CheckpointWriter):
        self._run, self._log, self._writer = run, log, writer
        self._pending: TakenStep | None = None
        self._waited = 0.0

    def add(self, taken: TakenStep) -> None:
        """Record the step before this one.

        Raises: TrainingDiverged if the model no longer learns.
        """
        self.flush()
        self._pending, self._waited = taken, self._log.waited

    def flush(self) -> None:
        """Record the last step now: a checkpoint must hold no weights of a bad step.

        Raises: TrainingDiverged if the model no longer learns.
        """
        taken, self._pending = self._pending, None
        if taken is None:
            return
        values, pairs = taken.values.read(), sum(taken.agreed.pairs_of_ranks)
        row, bad_steps, problem = self._row(taken, values, pairs), self._run.bad_steps, None
        if bad_steps is not None:
            problem = bad_steps.record(taken.step, is_bad=bool(values.skipped))
            row |= {"skipped_steps": bad_steps.skipped, "rollbacks": len(bad_steps.rollbacks)}
        elif not (math.isfinite(values.loss) and math.isfinite(values.grad_norm)):
            problem = f"loss {values.loss}, gradient norm {values.grad_norm}: not finite"
        if not values.skipped:
            problem = problem or self._run.health.find_problem(row, pairs)
        if problem is not None:
            raise self._diverged(taken.step, problem)
        # JSON has no number that is not finite.
        finite = {name: value for name, value in row.items() if math.isfinite(value)}
        self._log.write(finite, taken.flops, taken.values.ended, self._waited)

    def _row(self, taken: TakenStep, values: StepValues, pairs: int) -> dict[str, Any]:
        return {
            "step": taken.step,
            "samples_seen": self._run.plan.samples_seen(taken.step),
            "loss": values.loss,
            "lr": taken.lr,
            "logit_scale": values.logit_scale,
            "grad_norm": values.grad_norm,
            "image_to_text_recall": values.image_hits / pairs,
            "text_to_image_recall": values.text_hits / pairs,
            "image_mean_cosine": values.image_cosine / distributed.world_size(),
            "text_mean_cosine": values.text_cosine / distributed.world_size(),
            "tokens": taken.agreed.tokens,
        }

    def _diverged(self, step: int, problem: str) -> TrainingDiverged:
        self._writer.wait()
        kept = sorted(path.name for path in self._run.checkpoints.glob("step-*"))
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint before it"
        return TrainingDiverged(f"step {step}: {problem}; {good}")
