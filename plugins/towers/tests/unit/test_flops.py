"""The operations of pretrained towers are those that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.loop.flops import count_step_flops
from training.model.clip import CLIP
from training.model.towers import pad_chunks
from training.model_config import ModelConfig

PROJECTOR = {"projector_layers": 2, "projector_width": 8}
WORDS = {"kind": "words", "context_length": 16, "vocab_size": 30, "width": 8, **PROJECTOR}
BERT = {**WORDS, "kind": "bert", "heads": 2, "layers": 2, "mlp_width": 12}


def build(architecture, text):
    image = {"kind": "backbone", "architecture": architecture, "image_size": 32, **PROJECTOR}
    image |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    return CLIP(ModelConfig.model_validate({"embed_dim": 24, "vision_cfg": image, "text_cfg": text}))


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize(("architecture", "text"), [("resnet18", BERT), ("vit_tiny_patch16_224", WORDS)])
def test_operations_of_a_step_are_those_that_torch_counts(architecture, text, is_frozen):
    model = build(architecture, text)
    for tower in (model.visual, model.text):
        tower.encoder.requires_grad_(not is_frozen)
    (texts,) = pad_chunks(torch.randint(1, 29, (2, 7), generator=torch.Generator().manual_seed(0)), None)
    with FlopCounterMode(display=False) as counter:
        outputs = model(torch.randn(2, 3, 32, 32), texts)
        (outputs.image_features_BD.sum() + outputs.text_features_BD.sum()).backward()
    found = count_step_flops(model).total(2, texts.token_count, texts.padded_count)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_cached_features_cost_only_their_projectors():
    model = build("resnet18", BERT)
    (texts,) = pad_chunks(torch.zeros(2, 8), None)
    found = count_step_flops(model, has_image_features=True).total(2, texts.token_count, texts.padded_count)
    assert found < 2 * 6 * (512 * 8 + 8 * 8 + 2 * 8 * 24) + 1
