"""Choose which towers of a job have their features computed once, and compute them."""

import logging
from itertools import chain

from dataops.digest import canonical_json, text_sha256
from training import distributed
from training.config import TrainConfig
from training.data.loader import Dataset
from training.frozen.image_features import prepare_image_features
from training.frozen.text_features import TextFeatures, prepare_text_features
from training.job import Job, prepared_folder
from training.model.clip import CLIP
from training.model.tokenizer import Tokenizer
from training.options.image_init import ImageInit
from training.options.text_init import TextInit
from training.options.tower_checks import find_uncached_reason
from training.towers.files import find_files
from training.towers.towers import BackboneTower

logger = logging.getLogger(__name__)


def use_frozen_features(
    job: Job, config: TrainConfig, model: CLIP, tokenizer: Tokenizer, dataset: Dataset
) -> TextFeatures | None:
    """Return the features of a frozen text tower, and give the dataset those of a frozen image tower; all ranks together.

    Returns: None where each step computes the features of the texts.
    """
    folder = (job.features or prepared_folder(job) / "features") / "towers"
    if config.image_init is not None and _is_cached(config, "image"):
        assert isinstance(model.visual, BackboneTower)
        vision = model.config.vision_cfg.model_dump(mode="json", exclude={"projector_layers", "projector_width"})
        digest = _digest(config.image_init, [vision, config.blur_faces])
        dataset.image_features = prepare_image_features(model.visual, dataset, job.checksums, digest, folder)
    if config.text_init is None or not _is_cached(config, "text"):
        return None
    assert model.text is not None
    texts = chain.from_iterable((prompt.format(c) for prompt in set(config.prompts)) for c in dataset.captions())
    return prepare_text_features(model.text, tokenizer, texts, _digest(config.text_init, []), folder)


def _is_cached(config: TrainConfig, tower: str) -> bool:
    reason = find_uncached_reason(config, tower)
    if reason is not None and reason != "it is trained" and distributed.rank() == 0:
        logger.info("the features of the frozen %s tower are computed at each step: %s", tower, reason)
    return reason is None


def _digest(init: TextInit | ImageInit, facts: list[object]) -> str:
    """Return the digest of the weights of a table, and of what else decides its features."""
    return text_sha256(canonical_json([find_files(init).digest(), *facts]))
