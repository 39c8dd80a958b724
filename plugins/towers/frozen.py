"""Compute the features of frozen towers once, for all steps and later jobs."""

from itertools import chain

from dataops.digest import canonical_json, text_sha256
from plugins.towers.config import ImageInit, TextInit
from plugins.towers.files import find_files
from plugins.towers.image_features import prepare_image_features
from plugins.towers.text_features import TextFeatures, prepare_text_features
from training.config import TrainConfig
from training.data.loader import Dataset
from training.job import Job
from training.model.clip import CLIP
from training.model.tokenizer import Tokenizer
from training.towers.towers import BackboneTower


def use_image_features(job: Job, config: TrainConfig, init: ImageInit, model: CLIP, dataset: Dataset) -> None:
    """Give a dataset the features of a frozen image tower; all ranks together."""
    assert isinstance(model.visual, BackboneTower)
    vision = model.config.vision_cfg.model_dump(
        mode="json", exclude={"projector_layers", "projector_norm", "projector_width"}
    )
    digest = _digest(init, [vision, config.blur_faces])
    folder = job.features_folder / "towers"
    dataset.image_features = prepare_image_features(model.visual, dataset, job.checksums, digest, folder)


def use_text_features(
    job: Job, config: TrainConfig, init: TextInit, model: CLIP, tokenizer: Tokenizer, dataset: Dataset
) -> TextFeatures:
    """Return the features of a frozen text tower; all ranks together."""
    assert model.text is not None
    texts = chain.from_iterable((prompt.format(c) for prompt in set(config.prompts)) for c in dataset.captions())
    digest = _digest(init, [])
    return prepare_text_features(model.text, tokenizer, texts, digest, job.features_folder / "towers")


def _digest(init: TextInit | ImageInit, facts: list[object]) -> str:
    """Return the digest of the weights of a table, and of what else decides its features."""
    return text_sha256(canonical_json([find_files(init).digest(), *facts]))
