"""`train.layer_decay`, beside timm's own rates by depth."""

import pytest
import torch

from tests.trainings import VIT
from training.config import TrainConfig
from training.loop.optim import build_optimizer
from training.loop.step import update
from training.model.clip import CLIP
from training.model_config import ModelConfig


@pytest.mark.xdist_group("open_clip")
def test_rates_fall_with_depth_as_those_of_timm():
    """The projection of a tower stands where timm's vision transformers have their head."""
    optim = pytest.importorskip("timm.optim")
    theirs = pytest.importorskip("timm").create_model("vit_tiny_patch16_224", depth=3)
    groups = optim.param_groups_layer_decay(theirs, weight_decay=0.0, layer_decay=0.5)
    names = {parameter: name for name, parameter in theirs.named_parameters()}
    rate_of = {names[one]: group["lr_scale"] for group in groups for one in group["params"]}
    towers = {tower: {**VIT[tower], "layers": 3} for tower in ("vision_cfg", "text_cfg")}
    model = CLIP(ModelConfig.model_validate(VIT | towers))
    optimizer = build_optimizer(model, TrainConfig(layer_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update(model, optimizer, 1.0, torch.tensor(0.0), TrainConfig())
    found = {one: group["lr"] for group in optimizer.param_groups for one in group["params"]}
    assert len(found) == len(list(model.parameters()))
    for tower in ("visual.", ""):
        blocks = [found[model.get_parameter(f"{tower}transformer.resblocks.{n}.ln_1.bias")] for n in range(3)]
        assert blocks == [rate_of[f"blocks.{n}.norm1.bias"] for n in range(3)]
        assert found[model.get_parameter(f"{tower}positional_embedding")] == rate_of["pos_embed"]
    assert {found[one] for one in (model.logit_scale, model.visual.proj, model.text_projection)} == {
        rate_of["head.bias"]
    }
