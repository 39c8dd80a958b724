"""The evaluation suite on a model that is still training. It draws no random number and changes no bit of the training."""

import json
import logging

import torch

from dataops.digest import RememberedDigests, canonical_json
from training import distributed
from training.evaluate import evaluate
from training.evaluation.intervals import flatten_metrics
from training.job import Stopped, prepared_folder
from training.loop.training_run import TrainingRun
from training.model.checkpoint import LoadedModel
from training.sharding import copy_whole

logger = logging.getLogger(__name__)

EVIDENCE = "evidence-suite.jsonl"


def is_evaluation_due(run: TrainingRun) -> bool:
    """Return whether the model is evaluated after the current step: never after the last one, which a stage evaluates."""
    every = run.config.evaluate_every
    return every > 0 and run.step % every == 0 and 0 < run.step < run.plan.total_steps


def is_evaluated(run: TrainingRun) -> bool:
    """Return whether the evaluation after the current step has its row; all ranks together."""
    found = False
    if distributed.rank() == 0 and (run.job.output / EVIDENCE).exists():
        rows = (run.job.output / EVIDENCE).read_text("utf-8").splitlines()
        found = any(row.endswith("}") and json.loads(row)["step"] == run.step for row in rows)
    return distributed.broadcast_from_first(found)


def evaluate_interim(run: TrainingRun) -> None:
    """Evaluate the model, and append its metrics to evidence-suite.jsonl; all ranks together.

    Raises: Stopped if this rank receives SIGTERM meanwhile.
    """
    assert run.job.suite is not None
    model = copy_whole(run.model)
    loaded = LoadedModel(model, run.tokenizer, run.preprocess, run.model.config, run.device)
    digests = RememberedDigests(prepared_folder(run.job) / "suite.json")
    threads = torch.get_num_threads()
    model.eval()
    run.is_evaluating = True
    try:
        if run.stop_requested:
            raise Stopped(f"stopped before the evaluation after step {run.step}, as asked")
        with torch.compiler.set_stance("force_eager" if run.config.compile else "default"):
            metrics = evaluate(
                loaded,
                run.job.suite,
                run.job.output / "suite",
                checkpoint_digest=f"step {run.step}",
                digest=digests.sha256,
            )
    finally:
        run.is_evaluating = False
        run.model.train()
        torch.set_num_threads(threads)  # evaluation sets its own, and how sums are split decides their last bits
    if distributed.rank() == 0:
        digests.save()
        values = {row["key"]: row["value"] for row in flatten_metrics(metrics)}
        with (run.job.output / EVIDENCE).open("a", encoding="utf-8") as file:
            file.write(canonical_json({"step": run.step, **values}) + "\n")
        figures = ", ".join(f"{name} {value:.1%}" for name, value in values.items())
        logger.info("suite after step %d: %s", run.step, figures)
