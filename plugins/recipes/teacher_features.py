"""Compute the features that a model has of a dataset, before the first step of a training that reads them.

Each rank computes every n-th block that is missing and writes it under another name first, so a start that is stopped
loses one block of each rank. The image is the whole one that the model's own preprocessing makes, without augmentation,
and the caption is that of the sample, without prompts.
"""

import io
import logging
import math
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from dataops.digest import canonical_json
from dataops.storage.cached_files import hold
from plugins.recipes.stored_features import (
    BLOCK,
    HEADER,
    StoredFeatures,
    block_path,
    block_samples,
    feature_folder,
    map_block,
    open_features,
)
from training import distributed
from training.data.loader import Dataset
from training.evaluation.encode import EvaluatedModel
from training.model.checkpoint import sync
from training.model.load import digest_model, load_any
from training.score import encode_captions, encode_shard_images

logger = logging.getLogger(__name__)


def prepare_features(
    parent: Path, model: Path, name: str, dataset: Dataset, device: torch.device, block: int = BLOCK
) -> StoredFeatures:
    """Return the features that a model has of a dataset, and compute those that are missing; all ranks together.

    Args:
        parent: folder of the features of all models.
        model: folder or file of the model.
        name: its name for messages.
        block: samples of a block.

    Raises: as load_any; ContractError if a feature is not finite.
    """
    folder = feature_folder(parent, distributed.run_on_first(lambda: digest_model(model)), dataset.index.fingerprint)
    hold(folder)
    blocks = range(-(-len(dataset) // block))
    missing = [number for number in blocks if not _is_whole(folder, number, block_samples(number, len(dataset), block))]
    is_complete = distributed.gather_integers([int(not missing and (folder / HEADER).is_file())])
    if not all(done for (done,) in is_complete):
        mine = missing[distributed.local_rank() :: distributed.local_world_size()]
        distributed.run_together(lambda: _compute(folder, model, name, dataset, mine, block, device))
    return open_features(folder, name, dataset.index, [path.name for path in dataset.files.paths], block)


def _is_whole(folder: Path, number: int, samples: range) -> bool:
    try:
        map_block(block_path(folder, number), len(samples))
    except (OSError, ValueError):
        return False
    return True


def _compute(
    folder: Path, model: Path, name: str, dataset: Dataset, blocks: list[int], block: int, device: torch.device
) -> None:
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_any(model, device=str(device))
    for done, number in enumerate(blocks, 1):
        samples = block_samples(number, len(dataset), block)
        buffer = io.BytesIO()
        np.save(buffer, _encode(loaded, dataset, samples, str(device)), allow_pickle=False)
        _write(block_path(folder, number), buffer.getvalue())
        rate = done * len(samples) / (time.monotonic() - started)
        logger.info("features of %s: block %d of %d, %.0f pairs/s", name, done, len(blocks), rate)
    inner = getattr(loaded.model, "inner", loaded.model)  # open_clip's own
    scale = getattr(inner, "logit_scale", torch.tensor(math.log(100)))
    _write(folder / HEADER, canonical_json({"model": name, "logit_scale": float(scale)}).encode())


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, whoever else writes the same one."""
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    part.write_bytes(data)
    sync(part)
    part.replace(path)


def _encode(loaded: EvaluatedModel, dataset: Dataset, samples: range, device: str) -> np.ndarray:
    """Return the features of consecutive samples (rows, 2, D), float16."""
    captions = [dataset.file_and_caption(sample)[1] for sample in samples]
    images = ((n, dataset.file_and_caption(sample)[0]) for n, sample in enumerate(samples))
    texts_ND = encode_captions(loaded, captions, device, _count_threads(device))
    found = np.full((len(samples), 2, texts_ND.shape[1]), np.nan, np.float16)
    found[:, 1] = texts_ND.numpy()
    for numbers, features_BD in encode_shard_images(loaded, images, device, _count_threads(device)):
        found[numbers, 0] = features_BD.numpy()
    return found


def _count_threads(device: str) -> int | None:
    """Return the threads that encode: one a rank on the CPU where several ranks share its cores."""
    return 1 if device == "cpu" and distributed.local_world_size() > 1 else None
