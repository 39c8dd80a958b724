"""The facts about a step that every rank must have before it. They are exchanged on the host, never read from a GPU."""

from typing import NamedTuple

from dataops.errors import ContractError
from training import distributed
from training.data.loader import Batch
from training.loop.training_run import TrainingRun


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
