"""The keys that `[train.text_init]` and `[train.image_init]` share: where the weights lie, and what is trained on top."""

from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import Field, model_validator

from training.model_config import FrozenModel
from training.options.bounds import NonNegative


class PretrainedConfig(FrozenModel):
    """A tower that starts from pretrained weights, and a projector on it that starts at random."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """Installed Python package that ships the weights. None of its code is run."""
    path: Annotated[str, Field(min_length=1)] | None = None
    """File or folder of the weights, in place of a package."""
    file: Annotated[str, Field(min_length=1)] | None = None
    """Name of the weights inside the package or folder; needed if there are several."""
    license: Annotated[str, Field(max_length=100)] = ""
    """Licence of the weights, as their owner states it. Default: that of the package's metadata. The model card has it."""
    lr_scale: NonNegative = 1.0
    """Factor of the learning rate of the loaded weights; the projector has `lr`."""
    cache: bool = True
    """Compute the features of a frozen tower once, and keep them on disk. The job's log names what rules it out."""
    projector_layers: Annotated[int, Field(ge=0, le=8)] = 1
    """Linear layers between the feature and the shared space, with a GELU between any two, and a layer norm before them.
    An MLP of two or more follows arXiv 2409.19425. 0: only the norm, so that the shared space is that of the feature, and
    has its width in place of the model's embed_dim."""
    projector_width: Annotated[int, Field(ge=1, le=65_536)] = 1024
    """Channels between two of those layers."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.package is None) == (self.path is None):
            raise ValueError("set either package or path: where the weights lie")
        if self.path is not None and not self.license:
            raise ValueError("license: a file states none; set the licence of the weights, which the model card names")
        for name in filter(None, (self.file, getattr(self, "tokenizer", None))):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name}: name a file inside the package or folder")
        return self
