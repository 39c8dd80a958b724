"""The step: packed texts and uint8 pixels give the same as padded texts and float pixels."""

import pytest
import torch

from tests.unit.training.conftest import TOWERS
from training.config import ModelConfig
from training.loop.step import normalize_pixels
from training.model.clip import CLIP
from training.model.preprocess import normalize

LENGTHS = (2, 16, 3, 9, 9, 5)


def texts() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(len(LENGTHS), 16, dtype=torch.int64)
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[: length - 1] = torch.randint(1, 299, (length - 1,), generator=generator)
        row[length - 1] = 299
    return tokens


def test_packed_texts_have_the_features_and_gradients_of_padded_ones() -> None:
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(TOWERS["vit"]))
    tokens, weights = texts(), torch.randn(len(LENGTHS), 16)
    features, gradients = {}, {}
    for packed in (False, True):
        model.train(packed)
        model.zero_grad()
        features[packed] = model.encode_text(tokens)
        (features[packed] * weights).sum().backward()
        gradients[packed] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(features[True], features[False], rtol=1e-5, atol=1e-6)
    assert gradients[True].keys() == gradients[False].keys()
    for name, gradient in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_tokens_after_the_end_change_nothing() -> None:
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(TOWERS["vit"])).train()
    noisy = texts()
    for row, length in zip(noisy, LENGTHS, strict=True):
        row[length:] = 7
    assert model.encode_text(noisy).equal(model.encode_text(texts()))
    assert model.encode_text(texts()[:0]).shape == (0, 16)


def test_uint8_pixels_are_normalised_as_floats_are() -> None:
    pixels = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = normalize_pixels(pixels)
    torch.testing.assert_close(images, normalize(pixels.permute(0, 3, 1, 2) / 255), rtol=1e-5, atol=1e-6)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("texts_", [1, 6])
def test_a_packed_text_does_not_depend_on_its_neighbours(texts_: int) -> None:
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(TOWERS["vit"])).train()
    alone = torch.cat([model.encode_text(texts()[i : i + 1]) for i in range(texts_)])
    torch.testing.assert_close(model.encode_text(texts()[:texts_]), alone, rtol=1e-5, atol=1e-6)
