"""What an image tower's last projection is given, seen in passing: the features that a linear probe stands on.

One forward pass so serves zero-shot transfer and probe. Source: Radford et al. 2021, appendix A.3 ("for CLIP-ViT models, we
used the features before the linear projection to the embedding space, which corresponds to I_f in figure 3").
"""

import threading
from types import TracebackType
from typing import Any

from torch import Tensor, nn


class PooledFeatures:
    """Watches a tower while the `with` lasts; each thread then takes what its own last forward pass showed."""

    def __init__(self, model: object):
        self._visual = getattr(model, "visual", None)
        self._seen = threading.local()
        self._hooks: list[Any] = []

    def __enter__(self) -> "PooledFeatures":
        projection = getattr(getattr(self._visual, "attnpool", None), "c_proj", None)
        norm = getattr(self._visual, "ln_post", None)
        if isinstance(projection, nn.Module):  # ModifiedResNet: attention pooling ends in its projection
            self._hooks.append(projection.register_forward_pre_hook(self._given))
        elif isinstance(norm, nn.Module):  # ViT: the projection is a bare matrix behind this norm
            self._hooks.append(norm.register_forward_hook(self._made))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _made(self, module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        self._keep(made)

    def _given(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._keep(given[0])

    def _keep(self, features: Tensor) -> None:
        if features.ndim == 3 and getattr(self._visual, "pool_type", "") == "tok":  # open_clip norms all tokens
            features = features[:, 0]
        self._seen.features = features.float() if features.ndim == 2 else None

    def take(self) -> Tensor | None:
        """(B, W) of this thread's last forward pass; None where the tower is of an unknown kind."""
        features = getattr(self._seen, "features", None)
        self._seen.features = None
        return features
