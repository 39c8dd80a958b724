"""Learning rates by depth, locked norms, and Muon against torch's own."""

from typing import Any

import pytest
import torch

from dataops.errors import ConfigError
from plugins.recipes.muon_optimizer import MuonWithAdamW, is_hidden_matrix
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
SHALLOW = {
    **VIT,
    "vision_cfg": {**VIT["vision_cfg"], "layers": 1},
    "text_cfg": {**VIT["text_cfg"], "layers": 1},
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


def set_gradients(*models: CLIP, seed: int) -> None:
    for model in models:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_muon_takes_torchs_own_steps() -> None:
    config = TrainConfig(optimizer="muon", weight_decay=0.1, muon_momentum=0.9)
    ours, theirs = model_of(SHALLOW), model_of(SHALLOW)
    optimizer = build_optimizer(ours, config)
    named = dict(theirs.named_parameters())
    hidden = {n for n in named if is_hidden_matrix(n, named[n])}
    assert hidden == {n for n in named if ".attn." in f".{n}" or ".mlp." in f".{n}"} - {n for n in named if "bias" in n}
    muon = torch.optim.Muon(
        [named[n] for n in named if n in hidden], weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    others = [n for n in named if n not in hidden]
    adamw = torch.optim.AdamW(
        [
            {"params": [named[n] for n in others if named[n].ndim >= 2], "weight_decay": 0.1},
            {"params": [named[n] for n in others if named[n].ndim < 2], "weight_decay": 0.0},
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
    for step in range(3):
        set_gradients(ours, theirs, seed=step)
        update(ours, optimizer, 0.01 * (step + 1), torch.tensor(1.0), config)
        for group in (*muon.param_groups, *adamw.param_groups):
            group["lr"] = 0.01 * (step + 1)
        muon.step()
        adamw.step()
    for name, parameter in ours.named_parameters():
        assert parameter.equal(named[name]), name
    with pytest.raises(ConfigError, match="trains no matrix of a transformer block"):
        build_optimizer(model_of().requires_grad_(False), config)


@pytest.mark.parametrize("bad_step", [0, 1])
def test_a_skipped_step_changes_no_weight_and_no_moment(bad_step: int) -> None:
    """A job that skips a step of gradients that are not finite ends as one that never saw it."""
    config = TrainConfig.model_validate({"optimizer": "muon"})
    skipping, oracle = model_of(SHALLOW), model_of(SHALLOW)
    optimizers = [build_optimizer(model, config) for model in (skipping, oracle)]
    assert isinstance(optimizers[0], MuonWithAdamW)
    for step in range(3):
        set_gradients(skipping, oracle, seed=step)
        bad = torch.tensor(step == bad_step)
        if step == bad_step:
            for parameter in skipping.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(torch.nan)
        else:
            update(oracle, optimizers[1], 0.01, torch.tensor(1.0), config)
        update(skipping, optimizers[0], 0.01, torch.tensor(1.0), config, bad)
    for ours, expected in zip(skipping.parameters(), oracle.parameters(), strict=True):
        assert ours.equal(expected)
    for ours, expected in zip(optimizers[0].state.values(), optimizers[1].state.values(), strict=True):
        assert ours.keys() == expected.keys()
        assert all(ours[key].equal(expected[key]) for key in ours)
