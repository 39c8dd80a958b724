"""The evaluation suite, and the hold-out, on a model that is still training.

Neither draws a random number nor changes a bit of the training.

Legend: N held-out pairs, B pairs of a batch, D embed_dim, K batches, W width of a feature.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dataops.digest import RememberedDigests, canonical_json
from dataops.errors import TrainingDiverged
from training import distributed
from training.data.shard_index import Skipped
from training.evaluate import evaluate
from training.evaluation.encode import map_in_order, normalize_features
from training.evaluation.intervals import flatten_metrics
from training.job import Stopped, prepared_folder
from training.loop.inputs import StepInputs
from training.loop.step import normalize_pixels
from training.loop.training_run import TrainingRun
from training.losses.contrastive import count_hits
from training.model.checkpoint import LoadedModel, write_atomically
from training.model.clip import CLIP, Outputs, autocast
from training.model.packing import pack_texts
from training.model.towers import pad_chunks
from training.model_config import TextConfig
from training.sharding import copy_whole

logger = logging.getLogger(__name__)

EVIDENCE = "evidence-suite.jsonl"
HOLDOUT_FILE = "holdout.jsonl"
LOSS_PAIRS = 64
"""Pairs of a batch of the loss. It grows with their number, so it is the same for datasets of any size."""
PAIRS_AT_ONCE = {"cpu": 16, "cuda": 256}
"""Held-out pairs that pass through the model together."""


def is_evaluation_due(run: TrainingRun) -> bool:
    """Return whether the model is evaluated after the current step: never after the last one, which a stage evaluates."""
    every = 0 if run.job.suite is None else run.config.evaluate_every
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

    Raises: as _undisturbed.
    """
    assert run.job.suite is not None
    with _undisturbed(run) as model:
        loaded = LoadedModel(model, run.tokenizer, run.preprocess, run.model.config, run.device)
        digests = RememberedDigests(prepared_folder(run.job) / "suite.json")
        metrics = evaluate(
            loaded,
            run.job.suite,
            run.job.output / "suite",
            checkpoint_digest=f"step {run.step}",
            digest=digests.sha256,
        )
    if distributed.rank() == 0:
        digests.save()
        values = {row["key"]: row["value"] for row in flatten_metrics(metrics)}
        with (run.job.output / EVIDENCE).open("a", encoding="utf-8") as file:
            file.write(canonical_json({"step": run.step, **values}) + "\n")
        figures = ", ".join(f"{name} {value:.1%}" for name, value in values.items())
        logger.info("suite after step %d: %s", run.step, figures)


@contextmanager
def _undisturbed(run: TrainingRun) -> Iterator[CLIP]:
    """Yield the whole model for an evaluation that leaves no trace in the training; all ranks together.

    Raises: Stopped on SIGTERM before the last step; TrainingDiverged if features are not finite.
    """
    model, threads = copy_whole(run.model), torch.get_num_threads()
    model.eval()
    run.is_evaluating = run.step < run.plan.total_steps
    try:
        if run.stop_requested and run.is_evaluating:
            raise Stopped(f"stopped before the evaluation after step {run.step}, as asked")
        with torch.compiler.set_stance("force_eager" if run.config.compile else "default"):
            yield model
    except TrainingDiverged as error:
        raise TrainingDiverged(f"step {run.step}: {error}") from error
    finally:
        run.is_evaluating = False
        run.model.train()
        torch.set_num_threads(threads)  # evaluation sets its own, and how sums are split decides their last bits


# Hold-out -------------------------------------------------------------------------------------------------------------


def measure_holdout(run: TrainingRun) -> None:
    """Measure the model on the held-out pairs, add a row to the curve, and write holdout.jsonl; all ranks together.

    On the CPU each batch is the work of one thread, so that the figures are the same on any number of ranks and threads.

    Raises: as _undisturbed.
    """
    holdout = run.holdout
    assert holdout is not None
    size = PAIRS_AT_ONCE[run.device.type]
    with _undisturbed(run) as model:
        batches = distributed.take_share(holdout.samples[i : i + size] for i in range(0, len(holdout.samples), size))
        encode = partial(_encode_pairs, run, model)
        features = map_in_order(encode, batches) if run.device.type == "cpu" else map(encode, batches)
        images, texts = zip(*distributed.merge_shares(features), strict=True)
        images_ND, texts_ND = torch.cat(images), torch.cat(texts)
        bias = None if model.logit_bias is None else model.logit_bias.detach().cpu()
        loss = contrastive_loss(images_ND, texts_ND, model.logit_scale.detach().cpu().exp(), bias)
        # Processors may differ in last bits, and all ranks must decide alike.
        loss, recall = distributed.broadcast_from_first((loss, mean_recall(images_ND, texts_ND)))
        holdout.add(run.step, loss, recall)
    if distributed.rank() == 0:
        rows = "".join(canonical_json(row) + "\n" for row in holdout.curve)
        write_atomically(run.job.output / HOLDOUT_FILE, rows)


def _encode_pairs(run: TrainingRun, model: CLIP, samples: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the unit-norm features (B, D) of the readable images and of their captions, on the CPU."""
    loaded = [run.dataset.load_plain(sample) for sample in samples.tolist()]
    pairs = [pair for pair in loaded if not isinstance(pair, Skipped)]
    if not pairs:
        return torch.zeros(0, model.config.embed_dim), torch.zeros(0, model.config.embed_dim)
    images = torch.from_numpy(np.stack([image for image, _ in pairs]))
    texts = [run.config.prompts[0].replace("{}", caption) for _, caption in pairs]
    rows_BX = (run.text_features or run.tokenizer)(texts)
    is_own = run.text_features is None and isinstance(model.config.text_cfg, TextConfig)
    packed = [pack_texts(rows_BX)] if is_own else pad_chunks(rows_BX, None)
    inputs = StepInputs(images, packed, None).map(lambda tensor: tensor.to(run.device))
    with torch.inference_mode(), autocast(run.device, run.config.precision):
        pixels = inputs.pixels_BSS3
        outputs = Outputs(*model(pixels if pixels.ndim == 2 else normalize_pixels(pixels), inputs.texts[0]))
    features = (outputs.image_features_BD, "image"), (outputs.text_features_BD, "text")
    image_BD, text_BD = (normalize_features(rows_BD, kind).cpu() for rows_BD, kind in features)
    return image_BD, text_BD


def contrastive_loss(images_ND: Tensor, texts_ND: Tensor, scale: Tensor, bias: Tensor | None) -> float:
    """Return the mean loss of batches of LOSS_PAIRS pairs, or of all if they are fewer; an incomplete batch is left out.

    Args:
        images_ND, texts_ND: unit-norm rows.
        scale: inverse temperature.
        bias: of the sigmoid loss (SigLIP); None: the softmax loss (CLIP).
    """
    size = min(len(images_ND), LOSS_PAIRS)
    end = len(images_ND) // size * size
    images_KBD, texts_KBD = (rows[:end].double().unflatten(0, (-1, size)) for rows in (images_ND, texts_ND))
    logits_KBB = scale * images_KBD @ texts_KBD.mT
    if bias is not None:
        signs_BB = 2 * torch.eye(size, dtype=logits_KBB.dtype, device=logits_KBB.device) - 1
        return float(-F.logsigmoid(signs_BB * (logits_KBB + bias)).sum() / end)
    own_N = torch.arange(size, device=logits_KBB.device).repeat(end // size)
    both = (F.cross_entropy(logits.flatten(0, 1), own_N) for logits in (logits_KBB, logits_KBB.mT))
    return float(sum(both)) / 2


def mean_recall(images_ND: Tensor, texts_ND: Tensor) -> float:
    """Return the mean of R@1 from images to texts and from texts to images."""
    dots_NN = images_ND @ texts_ND.T
    return sum(int(count_hits(dots, 0)) for dots in (dots_NN, dots_NN.T)) / (2 * len(images_ND))
