"""Parameter groups and the schedule."""

import pytest
import torch

from training.config import TrainConfig
from training.loop.optim import build_optimizer, has_weight_decay
from training.model.clip import CLIP
from training.model_config import load_model_config


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_gains_and_biases_do_not_decay(name):
    with torch.device("meta"):
        model = CLIP(load_model_config(name))
        decayed, spared = build_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
    for parameter_name, parameter in model.named_parameters():
        gain = any(part in parameter_name for part in (".bn", "ln_", ".downsample.1.")) or "bias" in parameter_name
        gain = gain or parameter_name in {"logit_scale", "visual.class_embedding"}
        assert has_weight_decay(parameter_name, parameter) != gain, parameter_name
