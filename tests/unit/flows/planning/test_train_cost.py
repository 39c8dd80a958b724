"""Operations of a model: those that a plan counts from its config, and those that a training counts from its weights."""

from pathlib import Path

import pytest
import torch

from flows.planning.train_cost import CAPTION_TOKENS, count_flops, train_flops
from training.config import TrainConfig
from training.loop.flops import count_step_flops
from training.model.clip import CLIP
from training.model_config import MODELS

NAMES = sorted(path.stem for path in Path(MODELS).glob("*.json"))


@pytest.mark.parametrize(("name", "image_size"), [*((name, None) for name in NAMES), ("ViT-B-16", 448), ("RN50", 448)])
def test_a_plan_and_a_training_count_the_same_operations(name: str, image_size: int | None) -> None:
    """A training without a gradient has the forward pass only."""
    config = TrainConfig(model=name, image_size=image_size)
    with torch.device("meta"):
        model = CLIP(config.load_dimensions())
    sizes = {"pairs": 1, "tokens": CAPTION_TOKENS, "padded": CAPTION_TOKENS**2}
    trained = count_step_flops(model).total(**sizes)
    forward = count_step_flops(model.requires_grad_(False)).total(**sizes)
    assert count_flops(model.config.model_dump()) == pytest.approx(forward, rel=1e-9)
    assert train_flops(config) == pytest.approx(trained, rel=0.02), "the first layer needs no gradient of its input"
