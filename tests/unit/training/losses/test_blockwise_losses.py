"""Losses that never hold the whole matrix: the same value and gradient in less memory."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.costs import forget_peak, read_status
from training.losses.contrastive import contrastive_loss, sigmoid_loss


def plain_softmax(images, texts, scale, smoothing):
    logits = scale.exp() * F.normalize(images) @ F.normalize(texts).T
    own = torch.arange(len(images))
    return (
        F.cross_entropy(logits, own, label_smoothing=smoothing)
        + F.cross_entropy(logits.T, own, label_smoothing=smoothing)
    ) / 2


def plain_sigmoid(images, texts, scale, bias):
    """Compute the loss by algorithm 1 of the paper."""
    logits = scale.exp() * F.normalize(images) @ F.normalize(texts).T + bias
    labels = 2 * torch.eye(len(images), dtype=logits.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(images)


def leaves(count=13):
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(2, count, 6, generator=generator) * 3
    return [value.requires_grad_() for value in (images, texts, torch.tensor(1.2), torch.tensor(-2.0))]


@pytest.mark.parametrize("rows", [1, 4, 13, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, None])
def test_value_and_gradients_equal_the_full_matrix(rows, smoothing):
    images, texts, scale, bias = leaves()
    expected_leaves = leaves()
    if smoothing is None:
        outcome = sigmoid_loss(images, texts, scale, bias, rows)
        expected = plain_sigmoid(*expected_leaves)
    else:
        outcome = contrastive_loss(images, texts, scale, smoothing, rows)
        expected = plain_softmax(*expected_leaves[:3], smoothing)
    torch.testing.assert_close(outcome.loss, expected)
    (3 * outcome.loss).backward()
    (3 * expected).backward()
    for ours, theirs in zip((images, texts, scale, bias), expected_leaves, strict=True):
        if theirs.grad is None:
            assert ours.grad is None
        else:
            torch.testing.assert_close(ours.grad, theirs.grad)
    similarity = F.normalize(images) @ F.normalize(texts).T
    assert outcome.image_hits == sum(int(row.argmax()) == i for i, row in enumerate(similarity))
    assert outcome.text_hits == sum(int(row.argmax()) == i for i, row in enumerate(similarity.T))


def test_the_sigmoid_loss_equals_open_clip():
    open_clip = pytest.importorskip("open_clip")
    images, texts, scale, bias = leaves()
    expected = open_clip.loss.SigLipLoss()(F.normalize(images), F.normalize(texts), scale.exp(), bias)
    torch.testing.assert_close(sigmoid_loss(images, texts, scale, bias, 5).loss, expected)


def plain_loss(images, texts):
    return plain_softmax(images, texts, torch.tensor(0.0), 0.0)


@pytest.mark.parametrize(
    ("loss", "least", "most"),
    [
        (plain_loss, 1.5, math.inf),
        # Where freed memory is enough, the peak may be some pages less than what was in use before.
        (lambda *two: contrastive_loss(*two, torch.tensor(1.0), rows=256).loss, -0.1, 0.4),
    ],
)
def test_memory_is_bounded_by_a_few_rows(loss, least, most):
    """4,096 pairs: the whole matrix is 67 MB, and plain autograd holds several."""
    images, texts = torch.randn(2, 4096, 16, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    before = forget_peak()
    loss(images, texts).backward()
    assert least <= (read_status("VmHWM") - before) / (4096 * 4096 * 4) < most


def test_a_sharp_temperature_overflows_nothing():
    images, texts, _, bias = leaves()
    scale = torch.tensor(math.log(100), requires_grad=True)
    for outcome in (contrastive_loss(images, texts, scale, rows=4), sigmoid_loss(images, texts, scale, bias, 4)):
        outcome.loss.backward()
        assert torch.isfinite(outcome.loss)
    assert all(torch.isfinite(value.grad).all() for value in (images, texts, scale) if value.grad is not None)
