"""Operations of a step, and the peaks of cards."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.trainings import RESNET, VIT
from training.loop.flops import count_step_flops, find_peak
from training.model.clip import CLIP
from training.model.packing import PackedTexts, pack_texts
from training.model_config import ModelConfig

STRIDES = {**RESNET, "vision_cfg": {**RESNET["vision_cfg"], "layers": [2, 1, 2, 1], "image_size": 64}}


def freeze_first_layers(model: CLIP) -> None:
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


def freeze_text(model: CLIP) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("visual.", "logit_scale")))


@pytest.mark.parametrize("freeze", [lambda model: None, CLIP.lock_image, freeze_text, freeze_first_layers])
@pytest.mark.parametrize(("tower", "kept"), [(VIT, None), (VIT, 1), (STRIDES, None)])
def test_the_operations_are_those_that_torch_counts(
    tower: dict[str, object], kept: int | None, freeze: Callable[[CLIP], None]
) -> None:
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


@pytest.mark.parametrize(
    ("card", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H100 NVL", 835.5, 60),
        ("NVIDIA H200", 989.5, 67),
        ("NVIDIA H200 NVL", 835.5, 60),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A10", 125, 31.2),
        ("NVIDIA A10G", 70, 35),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA L40", 181, 90.5),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA B200", 2250, 75),
        ("NVIDIA GH200 480GB", None, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA A1000 Laptop GPU", None, None),
        ("", None, None),
    ],
)
def test_each_card_has_the_peaks_of_its_data_sheet(
    monkeypatch: pytest.MonkeyPatch, card: str, bf16: float | None, fp32: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card)
    found = [find_peak(torch.device("cuda"), precision) for precision in ("bf16", "fp32")]
    assert found == [None if peak is None else pytest.approx(peak * 1e12) for peak in (bf16, fp32)]
