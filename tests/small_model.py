"""A tiny CLIP model that scores images."""

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


def write_model(folder, captions=("a red house", "caption 7"), seed=0):
    """Write a model with weights of this seed, and a vocabulary of the captions, into the folder; return the folder."""
    folder.mkdir(exist_ok=True)
    tokenizer = train_tokenizer(list(captions), 280, 16)
    config = ModelConfig.model_validate(VIT).with_vocab_size(tokenizer.vocab_size)
    torch.manual_seed(seed)
    save_model(folder, CLIP(config), tokenizer, Preprocess(32))
    return folder
