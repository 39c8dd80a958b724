"""The evaluation suite on a model that is still training. It draws no random number and changes no bit of the training."""

import logging

import torch

from dataops.digest import canonical_json
from training import distributed
from training.evaluate import evaluate
from training.evaluation.intervals import flatten_metrics
from training.loop.training_run import TrainingRun
from training.model.checkpoint import LoadedModel

logger = logging.getLogger(__name__)


def evaluate_interim(run: TrainingRun) -> None:
    """Evaluate the model as it is, and append its metrics to evidence-suite.jsonl; all ranks together."""
    assert run.job.suite is not None
    loaded = LoadedModel(run.model, run.tokenizer, run.preprocess, run.model.config, run.device)
    threads = torch.get_num_threads()
    run.model.eval()
    try:
        metrics = evaluate(loaded, run.job.suite, run.job.output / "suite", checkpoint_digest=f"step {run.step}")
    finally:
        run.model.train()
        torch.set_num_threads(threads)  # evaluation sets its own, and how sums are split decides their last bits
    if distributed.rank() == 0:
        values = {row["key"]: row["value"] for row in flatten_metrics(metrics)}
        with (run.job.output / "evidence-suite.jsonl").open("a", encoding="utf-8") as file:
            file.write(canonical_json({"step": run.step, **values}) + "\n")
        figures = ", ".join(f"{name} {value:.1%}" for name, value in values.items())
        logger.info("suite after step %d: %s", run.step, figures)
