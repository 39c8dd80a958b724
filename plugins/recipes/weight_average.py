"""Averages of the weights, which are evaluated and saved in their place.

An average costs one more copy of the trained weights in memory, and one pass over them whenever it is updated.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.sharding import local_part


class WeightAverage(ABC):
    """The averages of a model's trained weights, and of the statistics of its batch norms."""

    def __init__(self, model: nn.Module):
        self._values = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._values |= {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self.averages = {name: value.detach().clone() for name, value in self._values.items()}

    @abstractmethod
    def update(self, step: int) -> None:
        """Add the weights after a step, from 1, where it counts."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Give the model its averages inside the `with`, and its weights back after it, bit by bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, value in self._values.items():
            weights, averages = local_part(value), local_part(self.averages[name])
            kept = weights.clone()
            weights.copy_(averages)
            averages.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of it, by name."""
        return {f"average/{name}": average for name, average in self.averages.items()}

    def _local_parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the averages and the weights that this rank keeps, in one order."""
        averages, values = (list(map(local_part, found.values())) for found in (self.averages, self._values))
        return averages, values


class MovingAverage(WeightAverage):
    """The exponential moving average (EMA).

    After step t the average is d x average + (1 - d) x weights, with d = min(decay, (1 + t) / (10 + t)), so that the first
    weights fade at the start of a training. A skipped step counts, with the weights as they are.

    Source: Polyak and Juditsky 1992; the ramp: TensorFlow's ExponentialMovingAverage with num_updates.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self._decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._local_parts(), weight)  # pyright: ignore[reportPrivateImportUsage]


class LastAverage(WeightAverage):
    """The mean of the weights at the last points of a training.

    Before the first of these points it is the weights themselves. A rollback takes the points after it out of the mean.

    Source: Kaddour 2022, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging".

    Args:
        points: number of points.
        every: steps between them.
        total_steps: step of the last one.
    """

    def __init__(self, model: nn.Module, points: int, every: int, total_steps: int):
        super().__init__(model)
        self._steps = frozenset(total_steps - every * point for point in range(points))
        # On the device, so that a rollback restores it with the averages, and no step waits for its value.
        self._count = torch.zeros((), device=local_part(next(iter(self._values.values()))).device)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step, if it is one of the points."""
        if step not in self._steps:
            return
        self._count.add_(1)
        averages, values = self._local_parts()
        # The first point is kept to the bit: its weights minus zero.
        changes = torch._foreach_sub(values, averages)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(changes, 1 - 1 / self._count)  # pyright: ignore[reportPrivateImportUsage]
        for average, value, change in zip(averages, values, changes, strict=True):
            torch.sub(value, change, out=average)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Give the model its averages inside the `with`; before the first point its weights stay."""
        if self._count.item() == 0:
            yield
            return
        with super().in_use():
            yield

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of it, by name."""
        return {**super().tensors(), "average_count": self._count}
