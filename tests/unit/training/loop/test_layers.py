"""Which layers a config trains, against open_clip, and by AdamW."""

import pytest
import torch

from tests.oracles import open_clip
from tests.trainings import RESNET, VIT
from training.config import TrainConfig
from training.loop.initial_model import lock_layers
from training.loop.optim import build_optimizer
from training.loop.step import update
from training.model.clip import CLIP
from training.model_config import ModelConfig

pytestmark = pytest.mark.xdist_group("open_clip")

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


def model_of(dimensions=DEEP, **settings):
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(dimensions))
    lock_layers(model, TrainConfig.model_validate({"init": "given", **settings}))
    return model.train()


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("count", range(6))
def test_unlocked_groups_are_those_of_open_clip(count):
    oracle = open_clip().model.CLIP(**DEEP)
    oracle.lock_image_tower(count)
    oracle.lock_text_tower(count)
    ours = {"unlocked_image_groups": count, "unlocked_text_groups": count}
    if count:
        assert trained(model_of(lock_image=True, lock_text=True, **ours)) == trained(oracle)
    text = open_clip().model.CLIP(**DEEP)
    text.lock_text_tower(count)
    assert trained(model_of(lock_text=True, unlocked_text_groups=count)) == trained(text)
    if not count:
        assert model_of(lock_text=True).encode_text(torch.tensor([[1, 299]])).requires_grad is False


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, ["bn1", "layer1", "layer2", "layer3", "layer4"]),
        ({"lock_image": True, "unlocked_image_groups": 3}, ["layer3", "layer4"]),
        ({"lock_image": True}, []),
    ],
    ids=str,
)
def test_batch_norms_of_locked_layers_keep_their_statistics(settings, changed):
    model = model_of(RESNET, **settings)
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    model.encode_image(torch.randn(3, 3, 32, 32))
    parts = {n.split(".")[1] for n, value in model.named_buffers() if n in before and not value.equal(before[n])}
    assert sorted(parts - {"bn2", "bn3"}) == changed


def set_gradients(*models, seed):
    for model in models:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("bad_step", [0, 1])
def test_a_skipped_step_changes_no_weight_and_no_moment(bad_step):
    """A job that skips a step of gradients that are not finite ends as one that never saw it."""
    config = TrainConfig()
    skipping, oracle = model_of(SHALLOW), model_of(SHALLOW)
    optimizers = [build_optimizer(model, config) for model in (skipping, oracle)]
    for step in range(3):
        set_gradients(skipping, oracle, seed=step)
        bad = torch.tensor(step == bad_step)
        if step == bad_step:
            for parameter in skipping.parameters():
                parameter.grad.fill_(torch.nan)
        else:
            update(oracle, optimizers[1], 0.01, torch.tensor(1.0), config)
        update(skipping, optimizers[0], 0.01, torch.tensor(1.0), config, bad)
    for ours, expected in zip(skipping.parameters(), oracle.parameters(), strict=True):
        assert ours.equal(expected)
    for ours, expected in zip(optimizers[0].state.values(), optimizers[1].state.values(), strict=True):
        assert ours.keys() == expected.keys()
        assert all(ours[key].equal(expected[key]) for key in ours)
