"""The input of an image tower's last projection, recorded by a hook: the features of a linear probe.

So one forward pass serves zero-shot transfer and probe. Source: Radford et al. 2021, appendix A.3 ("for CLIP-ViT
models, we used the features before the linear projection to the embedding space, which corresponds to I_f in figure
3").
"""

import threading
from types import TracebackType
from typing import Any

from torch import Tensor, nn


class PooledFeatures:
    """A hook on a tower, active in a `with` block; each thread takes the features of its own last forward pass."""

    def __init__(self, model: object):
        self._visual = getattr(model, "visual", None)
        self._recorded = threading.local()
        self._hooks: list[Any] = []

    def __enter__(self) -> "PooledFeatures":
        projection = getattr(getattr(self._visual, "attnpool", None), "c_proj", None)
        norm, projector = getattr(self._visual, "ln_post", None), getattr(self._visual, "projector", None)
        if isinstance(projection, nn.Module):  # ModifiedResNet: attention pooling ends in its projection
            self._hooks.append(projection.register_forward_pre_hook(self._record_input))
        elif isinstance(projector, nn.Module):  # a pretrained backbone and the projector on it
            self._hooks.append(projector.register_forward_pre_hook(self._record_input))
        elif isinstance(norm, nn.Module):  # ViT: the projection is a bare matrix behind this norm
            self._hooks.append(norm.register_forward_hook(self._record_output))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._record(output)

    def _record_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._record(inputs[0])

    def _record(self, features: Tensor) -> None:
        if features.ndim == 3 and getattr(self._visual, "pool_type", "") == "tok":  # open_clip norms all tokens
            features = features[:, 0]
        self._recorded.features = features.float() if features.ndim == 2 else None

    def take(self) -> Tensor | None:
        """Return (B, W) of this thread's last forward pass; None if the tower is of an unknown kind."""
        features = getattr(self._recorded, "features", None)
        self._recorded.features = None
        return features
