"""Parameters, operations and state-dict keys of published models."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.oracles import open_clip
from training.model.clip import CLIP
from training.model_config import load_model_config

pytestmark = pytest.mark.xdist_group("open_clip")

PUBLISHED = {
    "RN50x16": (290.98, 149.39, 13.3),
    "ViT-B-32": (151.28, 8.82, 5.96),
    "ViT-L-14-336": (427.94, 381.92, 13.3),
}
"""Millions of parameters, GFLOPs of an image and of a text.
Source: https://github.com/mlfoundations/open_clip/blob/main/docs/model_profile.csv"""


class Flops(NamedTuple):
    """Operations of the forward pass of one image and of one text."""

    image: int
    text: int


@cache
def forward_flops(config, tokens=None):
    """Count the operations of one image and one text, of `tokens` tokens or of the context length."""
    side = config.vision_cfg.image_size
    with torch.device("meta"), torch.no_grad():
        model = CLIP(config).eval()
        image, text = FlopCounterMode(display=False), FlopCounterMode(display=False)
        with image:
            model.encode_image(torch.empty(1, 3, side, side))
        with text:
            model.encode_text(torch.zeros(1, tokens or config.text_cfg.context_length, dtype=torch.int64))
    return Flops(image.get_total_flops(), text.get_total_flops())


def pooling_difference(name):
    """Return the GFLOPs of attention-pool queries that the published count includes and the network does not compute.

    The pool asks with the mean alone, one query; open_clip's counter takes it for self-attention over all N places.
    """
    config = load_model_config(name)
    if not isinstance(config.vision_cfg.layers, tuple):
        return 0.0
    N, C = (config.vision_cfg.image_size // 32) ** 2 + 1, config.vision_cfg.width * 32
    return 2 * (N - 1) * (C * C + C * config.embed_dim + 2 * N * C) / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_operations_and_keys_equal_the_published_ones(name):
    parameters, image, text = PUBLISHED[name]
    config = load_model_config(name)
    flops = forward_flops(config)
    assert round(flops.image / 1e9 + pooling_difference(name), 2) == pytest.approx(image, abs=0.011)
    assert round(flops.text / 1e9, 2) == pytest.approx(text, abs=0.011)
    path = Path(open_clip().__file__).parent / "model_configs" / f"{name}.json"
    with torch.device("meta"):
        ours, theirs = CLIP(config), open_clip().model.CLIP(**json.loads(path.read_text()))
    assert sum(parameter.numel() for parameter in ours.parameters()) / 1e6 == pytest.approx(parameters, abs=0.006)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
