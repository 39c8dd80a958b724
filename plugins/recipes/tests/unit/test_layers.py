"""Learning rates by depth, and locked norms."""

from typing import Any

import torch

from tests.trainings import RESNET, VIT
from training.config import TrainConfig
from training.loop.initial_model import lock_layers
from training.loop.optim import build_optimizer
from training.loop.step import update
from training.model.clip import CLIP
from training.model_config import ModelConfig

DEEP = {
    **VIT,
    "vision_cfg": {**VIT["vision_cfg"], "layers": 3},
    "text_cfg": {**VIT["text_cfg"], "layers": 3},
}


def model_of(dimensions: dict[str, Any] = DEEP, **settings: Any) -> CLIP:
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(dimensions))
    lock_layers(model, TrainConfig.model_validate({"init": "given", **settings}))
    return model.train()


def test_layer_decay_lowers_the_learning_rate_by_depth() -> None:
    model = model_of()
    optimizer = build_optimizer(model, TrainConfig(layer_decay=0.5, weight_decay=0.3))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update(model, optimizer, 1.0, torch.tensor(0.0), TrainConfig())
    found = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "logit_scale": (1.0, 0.0),
        "visual.proj": (1.0, 0.3),
        "text_projection": (1.0, 0.3),
        "visual.ln_post.weight": (0.5, 0.0),
        "visual.transformer.resblocks.2.mlp.c_fc.weight": (0.5, 0.3),
        "transformer.resblocks.2.ln_1.bias": (0.5, 0.0),
        "ln_final.bias": (0.5, 0.0),
        "transformer.resblocks.1.attn.in_proj_weight": (0.25, 0.3),
        "visual.transformer.resblocks.0.attn.in_proj_bias": (0.125, 0.0),
        "visual.class_embedding": (0.0625, 0.0),
        "visual.conv1.weight": (0.0625, 0.3),
        "visual.ln_pre.weight": (0.0625, 0.0),
        "token_embedding.weight": (0.0625, 0.3),
        "positional_embedding": (0.0625, 0.3),
    }
    assert {name: found[model.get_parameter(name)] for name in expected} == expected
    assert len(found) == len(list(model.parameters()))


def test_locked_norms_keep_gains_and_statistics() -> None:
    model = model_of(RESNET, lock_norms=True)
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    model.encode_image(torch.randn(3, 3, 32, 32))
    assert all(model.get_buffer(name).equal(value) for name, value in before.items())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert not any("bn" in name or "ln_" in name or "downsample.1" in name for name in trained)
    assert any("conv" in name for name in trained)
