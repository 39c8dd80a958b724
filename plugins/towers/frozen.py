"""Compute the features of frozen towers once, for all steps and later jobs.

Legend: B batch, S side of the input.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataops.digest import file_sha256
from plugins.towers.config import ImageInit, TextInit
from plugins.towers.files import find_files
from plugins.towers.image_features import Change, prepare_image_features
from plugins.towers.text_features import TextFeatures, prepare_text_features
from training.config import TrainConfig
from training.data.loader import Batch, Dataset
from training.data.shard_files import find_checksum
from training.job import Job, prepared_folder
from training.loop.inputs import StepInputs
from training.loop.step import prepare_images
from training.model.clip import CLIP
from training.model.tokenizer import Tokenizer
from training.model.towers import BackboneTower
from training.step_hooks import used_step_hooks


def _features_folder(job: Job) -> Path:
    return (job.features or prepared_folder(job) / "features") / "towers"


def use_image_features(job: Job, config: TrainConfig, init: ImageInit, model: CLIP, dataset: Dataset) -> None:
    """Give a dataset the features of a frozen image tower; all ranks together."""
    assert isinstance(model.visual, BackboneTower)
    vision = model.config.vision_cfg.model_dump(
        mode="json", exclude={"projector_layers", "projector_norm", "projector_width"}
    )
    changing = [hook for hook in used_step_hooks(config) if hook.changes_images]
    dataset.image_features = prepare_image_features(
        model.visual,
        dataset,
        job.checksums,
        [find_files(init).digest(), vision, config.blur_faces],
        _features_folder(job),
        precision=config.precision,
        copies=init.copies,
        change=_change_images(config, next(model.visual.parameters()).device),
        decides_change=[[hook.table, hook.version, hook.settings(config).model_dump(mode="json")] for hook in changing],
    )


def _change_images(config: TrainConfig, device: torch.device) -> Change:
    """Return a function that makes the images of a copy as a step makes those of an epoch."""

    def change(pixels_BSS3: np.ndarray, hashes: np.ndarray, copy: int) -> Tensor:
        batch = Batch(step=0, epoch=copy, samples=hashes, pixels_BSS3=pixels_BSS3, captions=[], skipped=[])
        named = {}
        for hook in used_step_hooks(config):
            if hook.changes_images:
                named |= hook.make_inputs(batch, config, seed=0)
        inputs = StepInputs(torch.from_numpy(pixels_BSS3), [], None, named).map(lambda tensor: tensor.to(device))
        return prepare_images(inputs, config)

    return change


def use_text_features(
    job: Job, config: TrainConfig, init: TextInit, model: CLIP, tokenizer: Tokenizer, dataset: Dataset
) -> TextFeatures:
    """Return the features of a frozen text tower; all ranks together."""
    assert model.text is not None

    def list_texts(shards: range, *, with_held: bool) -> Iterator[str]:
        captions = dataset.captions(shards, with_held=with_held)
        return chain.from_iterable((prompt.replace("{}", c) for prompt in set(config.prompts)) for c in captions)

    texts = (
        (find_checksum(job.checksums, path) or file_sha256(path), list_texts(range(shard, shard + 1), with_held=True))
        for shard, path in enumerate(dataset.files.paths)
    )
    parts = (find_files(init).digest(), _features_folder(job), config.precision)
    found = prepare_text_features(model.text, tokenizer, texts, *parts)
    return found.centre(list_texts(range(dataset.shards_at_start), with_held=False)) if init.centred else found
