"""What a loss takes beside the features of a batch.

Legend: B pairs of this rank.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class LossInputs(NamedTuple):
    """Tensors on the model's device; None where the config needs none."""

    identities_B2: Tensor | None = None
    """Hashes of images and captions, int64."""
    samples_B: Tensor | None = None
    """Numbers of the samples, as Plan.batch returns them."""
    gamma: Tensor | None = None
    """Scalar, the share of the batch in the moving averages of the denominators."""
    teacher_B2T: Tensor | None = None
    """Features that the teacher of a distillation has of images and captions, of unit norm."""
    teacher_scale: Tensor | None = None
    """Scalar, the factor of the teacher's cosines."""
    reference_B2T: Tensor | None = None
    """The same features of the reference model."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "LossInputs":
        """Return the results of a function of one tensor for all tensors."""
        return LossInputs(*(None if tensor is None else function(tensor) for tensor in self))


NO_INPUTS = LossInputs()
