"""The step: packed texts and uint8 pixels give the same as padded texts and float pixels."""

import torch

from tests import rounding
from tests.trainings import TOWERS
from training.loop.step import normalize_pixels
from training.model.clip import CLIP
from training.model.packing import pack_texts
from training.model.preprocess import normalize
from training.model_config import ModelConfig

LENGTHS = (2, 16, 3, 9, 9, 5)


def texts():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(len(LENGTHS), 16, dtype=torch.int64)
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[: length - 1] = torch.randint(1, 299, (length - 1,), generator=generator)
        row[length - 1] = 299
    return tokens


def test_packed_texts_have_the_features_and_gradients_of_padded_ones():
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(TOWERS["vit"]))
    tokens, weights = texts(), torch.randn(len(LENGTHS), 16)
    features, gradients = {}, {}
    for packed in (False, True):
        model.zero_grad()
        features[packed] = model.encode_text(pack_texts(tokens) if packed else tokens)
        (features[packed] * weights).sum().backward()
        gradients[packed] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    rounding.assert_close(features[True], features[False], rounding.count_additions(model))
    assert gradients[True].keys() == gradients[False].keys()
    for name, gradient in gradients[False].items():
        additions = rounding.count_additions(model, rows=tokens.numel())
        rounding.assert_close(gradients[True][name], gradient, additions, name=name)


def test_uint8_pixels_are_normalised_as_floats_are():
    pixels = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = normalize_pixels(pixels)
    rounding.assert_close(images, normalize(pixels.permute(0, 3, 1, 2) / 255), additions=4, magnitude=4)
    assert images.is_contiguous(memory_format=torch.channels_last)
