"""The evaluation suite on a model that is still training: all ranks take part.

It draws no random number and changes no bit of the training.
"""

from pathlib import Path

import torch

from training.evaluate import evaluate
from training.evaluation.intervals import flatten_metrics
from training.evaluation.suite import Suite
from training.model.checkpoint import LoadedModel


def evaluate_interim(loaded: LoadedModel, suite: Suite, output: Path, step: int) -> dict[str, float]:
    """Each metric of the suite as `<task>/<metric>`, the same on every rank.

    Args:
        loaded: the model as it is; put back into training mode afterwards.
        output: folder for what the tasks write.
    """
    threads = torch.get_num_threads()
    loaded.model.eval()
    try:
        found = evaluate(loaded, suite, output, checkpoint_digest=f"step {step}")
    finally:
        loaded.model.train()
        torch.set_num_threads(threads)  # evaluation has its own, and how sums are split decides their last bits
    return {row["key"]: row["value"] for row in flatten_metrics(found)}
