"""The layer between two frozen towers as the solution of a ridge regression, before the first step.

Legend: N pairs, W numbers of an image's feature and a 1, D dimensions of the shared space.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.config import TrainConfig
from training.data.loader import Dataset
from training.data.shard_index import Skipped
from training.evaluation.encode import map_in_order
from training.model.clip import CLIP
from training.model.towers import BackboneTower

PAIRS_AT_ONCE, COLUMNS_AT_ONCE = 1024, 1024
SHRINKAGE = 0.1
"""Part of the mean eigenvalue that is added to each before the captions are whitened. Chosen on validation families of the
demo (docs/decisions/demo.md)."""
END_SHARE = 0.25
"""Share of the end of the steps in the finished layer, of their start the rest. Chosen there too."""
START = "start_"
"""Prefix of the buffers that hold the layer's first weights."""

logger = logging.getLogger(__name__)
Texts = Callable[[Sequence[str]], Tensor]
"""Maps captions to features (B, D)."""


def start_from_least_squares(model: CLIP, config: TrainConfig, dataset: Dataset, texts: Texts, ridge: float) -> None:
    """Set the projector's layer to the regression of the captions' vectors on the images' features; all ranks together.

    A caption stands for the mean of its unit vectors in all prompts. Each feature of an image, plain or of a copy, is an
    observation of its own. What the regression predicts is whitened as the captions' vectors would be: else the few
    directions in which captions differ most decide which one is the nearest. Each rank sums over its share of the pairs of
    the dataset's `shards_at_start`: products in fp32 of features minus the mean of the first pairs, sums in fp64. On the
    CPU each block of pairs is the work of one thread.
    """
    layer, started = _find_layer(model), time.monotonic()
    norm = model.visual.get_submodule("projector.norm")
    end = int(dataset.index.sizes[: dataset.shards_at_start].sum())
    weight_DW, bias_D = layer.weight, layer.bias
    device, width = weight_DW.device, weight_DW.shape[1] + 1
    dimensions = len(weight_DW)
    shapes = ((width, width), (width, dimensions), (dimensions, dimensions))
    sums = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]

    def read(start: int) -> tuple[Tensor, Tensor]:
        pairs = list(dataset.index.without_held(range(start, min(start + PAIRS_AT_ONCE, end))))
        features_NW, targets_ND = _read_pairs(config, dataset, texts, pairs)
        with torch.no_grad():
            return norm(features_NW.to(device)), targets_ND.to(device)

    first_NW, _ = read(0)
    shift_W = first_NW.sum(dim=0) / max(len(first_NW), 1)

    def multiply(start: int) -> tuple[Tensor, ...]:
        features_NW, targets_ND = read(start)
        inputs_NW = F.pad(features_NW - shift_W, (0, 1), value=1.0)
        return _multiply_half(inputs_NW), inputs_NW.T @ targets_ND, targets_ND.T @ targets_ND

    starts = distributed.take_share(range(0, end, PAIRS_AT_ONCE))
    blocks = map_in_order(multiply, starts) if device.type == "cpu" else map(multiply, starts)
    for products in blocks:
        for total, product in zip(sums, products, strict=True):
            total += product
    gram_WW, moments_WD, targets_DD = (distributed.sum_over_ranks(total) for total in sums)
    gram_WW = gram_WW.tril() + gram_WW.tril(-1).T
    solution_WD = solve_ridge(gram_WW, moments_WD, ridge) @ whiten(targets_DD)
    with torch.no_grad():
        weight_DW.copy_(solution_WD[:-1].T)
        bias_D.copy_(solution_WD[-1] - shift_W.double() @ solution_WD[:-1])
        for name, buffer in layer.named_buffers():
            buffer.copy_(layer.get_parameter(name.removeprefix(START)))
    if distributed.rank() == 0:
        seconds = time.monotonic() - started
        logger.info("images are mapped to captions by least squares over %s pairs in %.1f s", f"{end:,}", seconds)


def _multiply_half(inputs_NW: Tensor) -> Tensor:
    """Return the products (W, W) of all columns on and below the diagonal; those above it are not all computed."""
    product_WW = inputs_NW.new_zeros(2 * inputs_NW.shape[1:])
    for start in range(0, inputs_NW.shape[1], COLUMNS_AT_ONCE):
        panel = slice(start, start + COLUMNS_AT_ONCE)
        product_WW[start:, panel] = inputs_NW[:, start:].T @ inputs_NW[:, panel]
    return product_WW


def keep_start(model: CLIP) -> None:
    """Give the projector's layer buffers for its first weights, so that a checkpoint holds them."""
    layer = _find_layer(model)
    for name, parameter in list(layer.named_parameters()):
        layer.register_buffer(f"{START}{name}", torch.zeros_like(parameter))


@contextmanager
def end_between(model: CLIP) -> Iterator[Callable[[], object]]:
    """After all steps, set the projector's layer to END_SHARE of the way from its first weights, if kept, to its last ones.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT).
    """
    yield lambda: None
    layer = _find_layer(model)
    for name, buffer in list(layer.named_buffers()):
        parameter = layer.get_parameter(name.removeprefix(START))
        with torch.no_grad():
            parameter.copy_(torch.lerp(buffer, parameter, END_SHARE))
        delattr(layer, name)


def _find_layer(model: CLIP) -> nn.Linear:
    assert isinstance(model.visual, BackboneTower)
    layer = model.visual.projector.layers[0]
    assert isinstance(layer, nn.Linear)
    return layer


def _read_pairs(config: TrainConfig, dataset: Dataset, texts: Texts, pairs: list[int]) -> tuple[Tensor, Tensor]:
    """Return features (N, W) of images and targets (N, D) of the readable pairs: for the plain images, then each copy."""
    variants = len(dataset.image_features.arrays[0])
    targets_ND = texts([])
    features, targets = [torch.zeros(0, dataset.image_features.width)], [targets_ND]
    for variant in range(variants):
        loaded = [dataset.load(pair, (0.0, 0.0, (variant + 0.5) / variants)) for pair in pairs]
        read = [one for one in loaded if not isinstance(one, Skipped)]
        if not read:
            continue
        if variant == 0:
            captions = [caption for _, caption in read]
            vectors = [
                F.normalize(texts([prompt.replace("{}", one) for one in captions]), dim=1) for prompt in config.prompts
            ]
            targets_ND = torch.stack(vectors).mean(dim=0)
        features.append(torch.from_numpy(np.stack([feature for feature, _ in read])))
        targets.append(targets_ND)
    return torch.cat(features), torch.cat(targets)


def solve_ridge(gram_WW: Tensor, moments_WD: Tensor, ridge: float) -> Tensor:
    """Return the weights (W, D) that minimise the squared error plus `ridge` times the squared weights, per observation.

    The ridge holds for inputs that are scaled to unit variance, and not for the weights of the last one.

    Args:
        gram_WW: sum over the observations of the products of their inputs, in fp64; the last input is 1.
        moments_WD: sum of the products of inputs and targets.
    """
    count = gram_WW[-1, -1].clamp(min=1)
    means_W, means_D = gram_WW[-1, :-1] / count, moments_WD[-1] / count
    covariance_WW = gram_WW[:-1, :-1] / count - means_W[:, None] * means_W
    covariance_WD = moments_WD[:-1] / count - means_W[:, None] * means_D
    variances_W = covariance_WW.diagonal()
    is_constant = variances_W <= 1e-12 * gram_WW.diagonal()[:-1] / count
    scales_W = torch.where(is_constant, torch.inf, variances_W.clamp(min=0)).sqrt()
    system_WW = covariance_WW / (scales_W[:, None] * scales_W) + ridge * torch.eye(len(scales_W)).to(gram_WW)
    weights_WD = torch.cholesky_solve(covariance_WD / scales_W[:, None], torch.linalg.cholesky(system_WW))
    weights_WD /= scales_W[:, None]
    return torch.cat([weights_WD, (means_D - means_W @ weights_WD)[None]])


def whiten(moments_DD: Tensor) -> Tensor:
    """Return the inverse square root (D, D) of second moments, raised by SHRINKAGE, in units of their mean eigenvalue.

    It makes vectors of these moments about as long in each direction. Source: Kessy, Lewin and Strimmer 2018 (ZCA
    whitening); Ledoit and Wolf 2004 (shrinkage towards the identity).
    """
    values_D, vectors_DD = torch.linalg.eigh(moments_DD)
    values_D = (values_D + SHRINKAGE * values_D.mean()).clamp(min=torch.finfo(values_D.dtype).tiny)
    return vectors_DD * (values_D.mean() / values_D).sqrt() @ vectors_DD.T
