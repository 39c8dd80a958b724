"""Operations of a step, and the peaks of cards."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.trainings import RESNET, VIT
from training.loop.flops import count_step_flops
from training.model.clip import CLIP
from training.model.packing import PackedTexts, pack_texts
from training.model_config import ModelConfig

STRIDES = {**RESNET, "vision_cfg": {**RESNET["vision_cfg"], "layers": [2, 1, 2, 1], "image_size": 64}}


def freeze_first_layers(model):
    """Freeze the layers nearest to the pixels and to the tokens, as a partial lock does."""
    visual = model.visual
    parts = (
        "class_embedding",
        "positional_embedding",
        "conv",
        "bn",
        "ln_pre",
        "transformer.resblocks.0",
        "layer1",
        "layer2",
    )
    for name, parameter in visual.named_parameters():
        parameter.requires_grad_(not name.startswith(parts))
    for parameter in (
        model.token_embedding.weight,
        model.positional_embedding,
        *model.transformer.resblocks[0].parameters(),
    ):
        parameter.requires_grad_(False)


def freeze_text(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("visual.", "logit_scale")))


@pytest.mark.parametrize("freeze", [lambda model: None, CLIP.lock_image, freeze_text, freeze_first_layers])
@pytest.mark.parametrize(("tower", "kept"), [(VIT, 1), (STRIDES, None)])
def test_the_operations_are_those_that_torch_counts(tower, kept, freeze):
    """Torch counts attention without its mask, and so all pairs of tokens."""
    tokens = torch.tensor([[7, 8, 9, 299], [7, 299, 0, 0]])
    texts = PackedTexts(*(tensor.to("meta") for tensor in pack_texts(tokens)))
    with torch.device("meta"):
        model = CLIP(ModelConfig.model_validate(tower)).train()
        freeze(model)
        side = model.config.vision_cfg.image_size
        images = torch.empty(2, 3, side, side)
        kept_BK = None if kept is None else torch.zeros(2, kept, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            images_BD, texts_BD, *_ = model(images, texts, kept_BK)
            sum(features.sum() for features in (images_BD, texts_BD) if features.requires_grad).backward()
    expected = counter.get_total_flops()
    assert count_step_flops(model, kept).total(pairs=2, tokens=6, padded=2 * 2 * 4**2) == pytest.approx(expected)
