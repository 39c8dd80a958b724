"""open_clip builds the same network from our JSON, loads our weights unchanged and gives the same features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.oracles import open_clip
from tests.trainings import run_training
from training.model.checkpoint import load_model
from training.model.clip import CLIP
from training.model_config import ModelConfig

pytestmark = pytest.mark.xdist_group("open_clip")

TEXTS = ["a red thing 3", "A  PALE\tthing", "", "the end <|endoftext|> and <|pad|> after it", "ünïcödé 🙂 " * 9]


def oracle_of(card, weights):
    oracle = open_clip().model.CLIP(
        **{name: card[name] for name in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
    )
    oracle.load_state_dict(weights, strict=True)
    return oracle.eval()


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_a_trained_model_has_open_clips_features(make_job, tower):
    job = make_job("a", tower, epochs=2)
    assert run_training(job) == 0
    torch.use_deterministic_algorithms(False)
    folder = Path(json.loads(job.read_text())["output"])
    ours = load_model(folder)
    oracle = oracle_of(json.loads((folder / "model.json").read_text()), ours.model.state_dict())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    images = torch.stack([ours.preprocess(image), ours.preprocess(image.transpose(Image.Transpose.ROTATE_90))])
    tokens = ours.tokenizer(TEXTS)
    context = ours.config.text_cfg.context_length
    with torch.no_grad():
        torch.testing.assert_close(ours.model.encode_image(images), oracle.encode_image(images), atol=1e-5, rtol=1e-5)
        expected = oracle.encode_text(F.pad(tokens, (0, context - tokens.shape[1])))
        torch.testing.assert_close(ours.model.encode_text(tokens), expected, atol=1e-5, rtol=1e-5)
        one_by_one = torch.cat([ours.model.encode_text(ours.tokenizer([text])) for text in TEXTS])
        torch.testing.assert_close(one_by_one, expected, atol=1e-5, rtol=1e-5)
    assert ours.model.logit_scale == oracle.logit_scale
    reference = open_clip().transform.image_transform(images.shape[-1], is_train=False)(image)
    torch.testing.assert_close(ours.preprocess(image), reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kept", [None, 3])
def test_in_bf16_the_image_tower_has_open_clips_bits(kept):
    """The stream between the blocks is bf16 in both, and so are all roundings; open_clip draws the kept patches itself."""
    config = ModelConfig.model_validate(
        {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
            "text_cfg": {"context_length": 8, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1},
        }
    )
    torch.manual_seed(0)
    model = CLIP(config)
    oracle = oracle_of(config.model_dump(), model.state_dict())
    images, kept_BK = torch.randn(2, 3, 32, 32), None
    if kept is not None:
        kept_BK = torch.stack([torch.randperm(16)[:kept].sort()[0] for _ in images])
        oracle.visual.patch_dropout = torch.nn.Identity()
        oracle.visual.patch_dropout.register_forward_hook(
            lambda _, inputs, x: torch.cat(
                [x[:, :1], x[:, 1:].gather(1, kept_BK[:, :, None].expand(-1, -1, x.shape[2]))], dim=1
            )
        )
    types = []
    for blocks in (model.visual.transformer.resblocks, oracle.visual.transformer.resblocks):
        blocks[1].register_forward_pre_hook(lambda _, inputs: types.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = model.encode_image(images, kept_BK), oracle.encode_image(images)
    assert types == [torch.bfloat16] * 2
    assert torch.equal(found, expected)
    for features in (found, expected):
        features.float().square().sum().backward()
    gradients = dict(oracle.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-3, rtol=2e-2, msg=name)
