"""Random changes to a batch of images by tensor operations, each image with its own random numbers.

Legend: B batch, S side of an image.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from plugins.augment.config import AugmentConfig
from training.data.keyed_random import draw_uniforms

DRAWS = 32
"""Random numbers per image. Each change has its own, so enabling one leaves the others unchanged."""


class AugmentDraws(NamedTuple):
    """The random numbers of a batch, and the images that they choose: no kernel then waits for their number."""

    u_BD: Tensor
    """Numbers in [0, 1), DRAWS for each image."""
    erased: Tensor
    """Indices of the images whose lines are erased."""
    blurred: Tensor
    """Indices of the images that are blurred."""


def draw_augmentation(config: AugmentConfig, seed: int, epoch: int, samples: np.ndarray) -> AugmentDraws:
    """Draw the random numbers of a batch, on the CPU.

    Args:
        seed, epoch, samples: all that they depend on; samples are the images' indices in the dataset, (B,).
    """
    u_BD = torch.from_numpy(draw_uniforms("augment", seed, epoch, samples, DRAWS).astype(np.float32))
    erased, blurred = (
        (u_BD[:, i] < share).nonzero()[:, 0] for i, share in ((0, config.erase_lines), (18, config.blur))
    )
    return AugmentDraws(u_BD, erased, blurred)


def augment(images_B3SS: Tensor, config: AugmentConfig, draws: AugmentDraws) -> Tensor:
    """Change each image at random.

    Args:
        images_B3SS: values in [0, 1].
        config: the changes and their strength.
        draws: random numbers of the same config, on the images' device.

    Returns:
        Images of the same shape, in [0, 1].
    """
    if config == AugmentConfig():
        return images_B3SS
    u = draws.u_BD
    if config.erase_lines:
        images_B3SS = _erase_lines(images_B3SS, config, u[:, 0:2], draws.erased)
    images_B3SS = _move(images_B3SS, config, u[:, 2:10])
    images_B3SS = _recolour(images_B3SS, config, u[:, 10:18])
    if config.blur:
        images_B3SS = images_B3SS.index_copy(0, draws.blurred, _blur(images_B3SS[draws.blurred]))
    if config.cutout:
        images_B3SS = _cut_out(images_B3SS, config, u[:, 19:26])
    return images_B3SS.clamp(0, 1)


def _either_way(u: Tensor) -> Tensor:
    return 2 * u - 1


def _erase_lines(images: Tensor, config: AugmentConfig, u: Tensor, chosen: Tensor) -> Tensor:
    """Close (dilate the bright, then erode it), which fills every dark area narrower than the window."""
    before = config.line_width // 2
    after = config.line_width - before
    bright = _window_max(_window_max(images[chosen], before, after, dim=2), before, after, dim=3)
    closed = -_window_max(_window_max(-bright, after, before, dim=2), after, before, dim=3)
    amount = (0.5 + 0.5 * u[chosen, 1]).view(-1, 1, 1, 1)
    return images.index_copy(0, chosen, torch.lerp(images[chosen], closed, amount))


def _window_max(images: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Return the maximum of each pixel and its neighbours along one dimension: shifted maxima, much faster than pooling."""
    result, side = images.clone(), images.shape[dim]
    for shift in range(1, max(before, after) + 1):
        first, last = images.narrow(dim, 0, side - shift), images.narrow(dim, shift, side - shift)
        if shift <= after:
            target = result.narrow(dim, 0, side - shift)
            torch.maximum(target, last, out=target)
        if shift <= before:
            target = result.narrow(dim, shift, side - shift)
            torch.maximum(target, first, out=target)
    return result


def _move(images: Tensor, config: AugmentConfig, u: Tensor) -> Tensor:
    """Rotate, shear, stretch, zoom, mirror and shift by one bilinear resampling; the border is repeated outwards."""
    low, high = (math.log(end) for end in config.zoom)
    zoom = torch.exp(low + (high - low) * u[:, 0])
    stretch = torch.exp(0.5 * config.aspect * _either_way(u[:, 1]))
    angle = math.radians(config.rotate) * _either_way(u[:, 2])
    shear = config.shear * _either_way(u[:, 3])
    mirror = torch.where(u[:, 4] < config.flip, -1.0, 1.0)
    shift = 2 * config.translate * _either_way(u[:, 5:7])
    cos, sin = angle.cos(), angle.sin()
    x_scale, y_scale = mirror / (zoom * stretch), stretch / zoom  # the sampling grid scales by the inverse
    rows = torch.stack([cos * x_scale, (shear * cos - sin) * y_scale, shift[:, 0]], dim=1)
    columns = torch.stack([sin * x_scale, (shear * sin + cos) * y_scale, shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([rows, columns], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


# Luma and chroma of NTSC: a turn of the chroma plane is a turn of the hue. Source: FCC 1953 YIQ.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_TO_RGB = torch.linalg.inv(_TO_YIQ)


@lru_cache
def _yiq(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return both matrices on a device: a copy in each step would wait for it."""
    return _TO_YIQ.to(device), _TO_RGB.to(device)


def _recolour(images: Tensor, config: AugmentConfig, u: Tensor) -> Tensor:
    """Apply hue, saturation, brightness, contrast, channel gains and grayscale as one affine map of colours per image."""
    angle = 2 * math.pi * config.hue * _either_way(u[:, 0])
    saturation = (1 + config.saturation * _either_way(u[:, 1])) * (u[:, 2] >= config.grayscale)
    gain = 1 + config.brightness * _either_way(u[:, 3])
    contrast = 1 + config.contrast * _either_way(u[:, 4])
    channels = 1 + config.channel * _either_way(u[:, 5:8])
    cos, sin, zero = saturation * angle.cos(), saturation * angle.sin(), torch.zeros_like(angle)
    luma = torch.stack([torch.ones_like(angle), zero, zero], dim=1)
    chroma = torch.stack([zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 2, 3)
    to_yiq, to_rgb = _yiq(u.device)
    turn = to_rgb @ torch.cat([luma[:, None], chroma], dim=1) @ to_yiq
    matrix = channels[:, :, None] * turn * (gain * contrast)[:, None, None]
    offset = (0.5 - 0.5 * contrast)[:, None, None].expand(-1, 3, 1)
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)


def _blur(images: Tensor) -> Tensor:
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16


def _cut_out(images: Tensor, config: AugmentConfig, u: Tensor) -> Tensor:
    """Fill a square with one colour. Source: DeVries & Taylor 2017."""
    side = images.shape[-1]
    half = 0.5 * config.cutout_side * u[:, 1] * (u[:, 0] < config.cutout)
    position = (torch.arange(side, device=images.device) + 0.5) / side
    in_columns = (position - u[:, 2:3]).abs() < half[:, None]
    in_rows = (position - u[:, 3:4]).abs() < half[:, None]
    inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    return torch.where(inside, u[:, 4:7, None, None], images)
