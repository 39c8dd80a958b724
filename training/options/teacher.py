"""The tables `[train.distill]` and `[train.reference]`: models whose features of the dataset a training reads."""

from typing import Annotated

from pydantic import Field

from training.model_config import FrozenModel
from training.options.bounds import Positive


class TeacherConfig(FrozenModel):
    """A model whose features of all pairs are computed once, before the first step, and kept."""

    model: Annotated[str, Field(min_length=1)]
    """Folder or file of a model, or a registered one (models:/NAME/VERSION)."""


class DistillConfig(TeacherConfig):
    """Distillation: the similarities of a batch's images and captions shall be those of a teacher."""

    weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the distillation in the loss; the contrastive loss has the rest."""
    scale: Positive | None = None
    """Factor of the teacher's cosines before the softmax; None: that of the teacher's own temperature."""
