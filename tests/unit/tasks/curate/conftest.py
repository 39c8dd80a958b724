"""A tiny model that scores and clusters images."""

from pathlib import Path

import pytest
import torch

from training.model.checkpoint import save_model
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["a red house", "caption 7"], 280, 16)
    torch.manual_seed(0)
    config = ModelConfig.model_validate(VIT).with_vocab_size(tokenizer.vocab_size)
    save_model(folder, CLIP(config), tokenizer, Preprocess(32))
    return folder
