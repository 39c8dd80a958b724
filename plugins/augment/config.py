"""The table `[train.augment]`."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from dataops.config import FrozenModel, Share


class AugmentConfig(FrozenModel):
    """Random changes to each image, new in each epoch. The defaults are the paper's: a random square crop, no more.

    Each is a pure function of (seed, epoch, sample), whatever the number of workers or ranks. A strength of 0 is off.
    """

    zoom: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Range of the content's magnification; over 1 crops, under 1 leaves a border."""
    aspect: NonNegativeFloat = 0.0
    """Maximum log of the factor between horizontal and vertical zoom."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Maximum rotation either way, in degrees."""
    shear: Share = 0.0
    """Maximum shear either way, as a tangent."""
    translate: Share = 0.0
    """Maximum shift either way, as a share of the side."""
    flip: Share = 0.0
    """Probability of a mirror image. Text, flags and arrows change meaning in a mirror."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Maximum turn of the hue either way, in turns."""
    saturation: Share = 0.0
    """Saturation is multiplied by 1 +- this, at most."""
    brightness: Share = 0.0
    """Brightness is multiplied by 1 +- this, at most."""
    contrast: Share = 0.0
    """Contrast about middle grey is multiplied by 1 +- this, at most."""
    channel: Share = 0.0
    """Each of red, green and blue is multiplied by 1 +- this, at most."""
    grayscale: Share = 0.0
    """Probability of an image without colour."""
    erase_lines: Share = 0.0
    """Probability of a morphological closing, which removes dark lines thinner than its window."""
    line_width: Annotated[int, Field(ge=1, le=15)] = 2
    """Width of the widest dark line that `erase_lines` removes, in pixels of the decoded image."""
    blur: Share = 0.0
    """Probability of a 3 x 3 binomial blur."""
    cutout: Share = 0.0
    """Probability of a square filled with a random colour."""
    cutout_side: Share = 0.4
    """Maximum side of that square, as a share of the image's."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom: the lower end {self.zoom[0]} is above the upper end {self.zoom[1]}")
        return self
