"""The exponential moving average of the weights.

It costs one more copy of the trained weights in memory, and one pass over them in each step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.sharding import local_part


class MovingAverage:
    """The averages of a model's trained weights, and of the statistics of its batch norms.

    After step t the average is d x average + (1 - d) x weights, with d = min(decay, (1 + t) / (10 + t)), so that the first
    weights fade at the start of a training. A skipped step counts, with the weights as they are.

    Source: Polyak and Juditsky 1992; the ramp: TensorFlow's ExponentialMovingAverage with num_updates.
    """

    def __init__(self, model: nn.Module, decay: float):
        self._decay = decay
        self.values = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values |= {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
        self._averages = {name: value.detach().clone() for name, value in self.values.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step, from 1."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        averages, values = (list(map(local_part, found.values())) for found in (self._averages, self.values))
        torch._foreach_lerp_(averages, values, weight)  # pyright: ignore[reportPrivateImportUsage]

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
        for name, value in self.values.items():
            weights, averages = local_part(value), local_part(self._averages[name])
            kept = weights.clone()
            weights.copy_(averages)
            averages.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of it, by name."""
        return {f"average/{name}": average for name, average in self._averages.items()}
