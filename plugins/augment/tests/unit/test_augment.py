"""Augmentation: a function of (seed, epoch, sample), and the effect of each kind."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from plugins.augment.changes import _erase_lines, augment, draw_augmentation
from plugins.augment.config import AugmentConfig
from tests.trainings import before_step, outputs_of, run_training, stop_at

EVERYTHING = AugmentConfig(
    zoom=(0.7, 1.5), aspect=0.3, rotate=20, shear=0.1, translate=0.1, flip=0.5, hue=0.1, saturation=0.3, brightness=0.2,
    contrast=0.2, channel=0.2, grayscale=0.2, erase_lines=0.5, line_width=3, blur=0.5, cutout=0.5,
)  # fmt: skip
IMAGES = torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
SAMPLES = np.array([3, 1, 4, 15, 92, 65])


def augmented(images, config, seed, epoch, samples):
    return augment(images, config, draw_augmentation(config, seed, epoch, samples))


def test_augmentation_does_not_depend_on_the_batch():
    whole = augmented(IMAGES, EVERYTHING, 1, 2, SAMPLES)
    for part in ([0], [4, 2], [5, 1, 0]):
        torch.testing.assert_close(augmented(IMAGES[part], EVERYTHING, 1, 2, SAMPLES[part]), whole[part])
    assert augmented(IMAGES, EVERYTHING, 1, 2, SAMPLES).equal(whole)
    for seed, epoch, samples in ((0, 2, SAMPLES), (1, 3, SAMPLES), (1, 2, SAMPLES + 1)):
        assert not augmented(IMAGES, EVERYTHING, seed, epoch, samples).equal(whole)
    assert whole.shape == IMAGES.shape
    assert whole.min() >= 0
    assert whole.max() <= 1


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_erasing_lines_is_a_closing(width):
    config = AugmentConfig(erase_lines=1.0, line_width=width)
    before, after = width // 2, width - width // 2
    bright = F.max_pool2d(F.pad(IMAGES, (before, after) * 2, value=-1.0), width + 1, stride=1)
    closed = -F.max_pool2d(F.pad(-bright, (after, before) * 2, value=-1.0), width + 1, stride=1)
    assert _erase_lines(
        IMAGES, config, torch.full((6, 2), 1.0 - 1e-7) * torch.tensor([0.5, 1.0]), torch.arange(6)
    ).allclose(closed)


def test_grayscale_has_no_colour_and_keeps_luma():
    gray = augmented(IMAGES, AugmentConfig(grayscale=1.0), 0, 0, SAMPLES)
    torch.testing.assert_close(gray[:, 0], gray[:, 1], atol=1e-3, rtol=0)
    luma = (IMAGES * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    torch.testing.assert_close(gray[:, 0], luma, atol=1e-3, rtol=0)


def test_hue_rotation_keeps_gray_and_luma():
    config = AugmentConfig(hue=0.5)
    gray = torch.full((6, 3, 8, 8), 0.4)
    torch.testing.assert_close(augmented(gray, config, 0, 0, SAMPLES), gray, atol=1e-3, rtol=0)
    soft = 0.4 + 0.1 * IMAGES
    turned = augmented(soft, config, 0, 0, SAMPLES)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((turned * weights).sum(1), (soft * weights).sum(1), atol=1e-3, rtol=0)
    assert (turned - soft).abs().mean() > 0.01


@pytest.mark.usefixtures("process_state")
def test_a_training_with_augmentation_is_resumed_to_the_same_bits(make_job, monkeypatch):
    changes = {"zoom": [0.8, 1.2], "hue": 0.1, "erase_lines": 0.5, "blur": 0.5, "cutout": 0.5}
    plain = make_job("plain", epochs=2)
    whole, cut = (make_job(name, epochs=2, augment=changes, workers=n) for n, name in enumerate(("a", "b")))
    assert run_training(plain) == run_training(whole) == 0
    before_step(monkeypatch, stop_at(3))
    assert [run_training(cut) for _ in range(2)] == [75, 0]
    assert outputs_of(cut) == outputs_of(whole) != outputs_of(plain)
