"""Classes as text features: each the mean over its prompts. A registered model ships this file, so it imports little.

Shape suffixes: C classes, T templates, D embed_dim.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.evaluation.encode import EvaluatedModel, encode_texts

TEXTS_AT_ONCE = 65_536
"""Maximum prompts whose features are held together, which bounds memory at any number of classes."""


def compute_class_weights(
    loaded: EvaluatedModel,
    class_names: Sequence[str],
    templates: Sequence[str],
    threads: int | None = None,
    at_once: int = TEXTS_AT_ONCE,
) -> Tensor:
    """Return (C, D): per class the mean of the unit-norm features of its prompts, scaled back to unit norm.

    Args:
        templates: prompts with `{c}` in place of the class.

    Source: Radford et al. 2021, section 3.1.4 ("we construct the ensemble over the embedding space").
    """
    return torch.cat(
        [average_prompts(chunk) for chunk in encode_prompts(loaded, class_names, templates, threads, at_once)]
    )


def average_prompts(prompts_CTD: Tensor) -> Tensor:
    """Return (C, D): the unit-norm mean of each class's prompts."""
    return F.normalize(prompts_CTD.mean(dim=1), dim=-1)


def encode_prompts(
    loaded: EvaluatedModel,
    class_names: Sequence[str],
    templates: Sequence[str],
    threads: int | None,
    at_once: int = TEXTS_AT_ONCE,
) -> Iterator[Tensor]:
    """Yield (C', T, D) of as many classes at a time as fit `at_once` prompts; those of many classes share a batch."""
    step = max(1, at_once // len(templates))
    for start in range(0, len(class_names), step):
        names = class_names[start : start + step]
        # replace, not str.format: a hostile template could walk attributes, a class name may hold braces
        prompts = [template.replace("{c}", name) for name in names for template in templates]
        yield encode_texts(loaded, prompts, threads).view(len(names), len(templates), -1)
