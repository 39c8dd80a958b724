"""Models for Python: image and text features, and zero-shot classification.

Shape suffixes: N images or texts, C classes, D features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pairmill.launcher import our_modules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Features = NDArray[np.float32]
    ImageSource = str | Path | bytes | Image.Image


class Classified(NamedTuple):
    """The class of an image."""

    label: str
    probability: float
    probabilities: dict[str, float]
    """By class, in the order of the classes."""


@dataclass(frozen=True)
class Model:
    """A trained model on this machine."""

    name: str
    """`models:/NAME/VERSION` of a registered model, otherwise its path."""
    digest: str
    """sha256 over the names and contents of its files."""
    _loaded: Any = field(repr=False)

    def encode_images(self, images: "Iterable[ImageSource]", *, batch_size: int = 64) -> "Features":
        """Return (N, D), of unit norm, of images: paths, bytes of files, or images of Pillow.

        Raises: ValueError naming the first image that cannot be decoded.
        """
        with our_modules():
            from training.evaluation.encode import encode_images
            from training.evaluation.samples import Sample

            samples = (Sample(_name_of(image, number), _read(image)) for number, image in enumerate(images))
            found = []
            for batch in encode_images(self._loaded, samples, batch_size):
                for sample, error in zip(batch.samples, batch.errors, strict=True):
                    if error is not None:
                        raise ValueError(f"{sample.key}: {error}")
                found.append(batch.features_RD.float().cpu())
            return _stack(found)

    def encode_texts(self, texts: Sequence[str]) -> "Features":
        """Return (N, D), of unit norm."""
        with our_modules():
            from training.evaluation.encode import encode_texts

            return _stack([encode_texts(self._loaded, list(texts)).float().cpu()] if texts else [])

    def classify(
        self, images: "Iterable[ImageSource]", classes: Sequence[str], *, templates: Sequence[str] = ("{c}",)
    ) -> list[Classified]:
        """Return the most similar class of each image (zero-shot transfer; Radford et al. 2021, section 3.1).

        Args:
            templates: prompts with `{c}` in place of the class, whose features are averaged.

        Raises: ValueError without a class, for a template without `{c}`, or for an image that cannot be decoded.
        """
        if not classes or any("{c}" not in template for template in templates):
            raise ValueError("name at least one class, and templates with {c} in its place")
        features_ND = self.encode_images(images)
        with our_modules():
            import torch

            from training.evaluation.class_weights import compute_class_weights

            weights_CD = compute_class_weights(self._loaded, list(classes), list(templates)).float().cpu()
            scale = self._loaded.model.logit_scale.exp().float().cpu()
            chances_NC = (scale * torch.from_numpy(features_ND) @ weights_CD.T).softmax(dim=-1).tolist()
        chosen = [max(range(len(classes)), key=chances.__getitem__) for chances in chances_NC]
        return [
            Classified(classes[best], chances[best], dict(zip(classes, chances, strict=True)))
            for best, chances in zip(chosen, chances_NC, strict=True)
        ]


def model(name: str, *, device: str = "cpu") -> Model:
    """Load a model: registered (NAME@ALIAS, NAME/VERSION), a folder of pairmill or open_clip, or OpenAI's .pt file.

    Raises: LookupError if there is none; ConnectionError if the registry does not answer.
    """
    with our_modules():
        from dataops.errors import ConfigError, ServiceError
        from infra.local import services
        from tasks.models.find import find_model
        from training.model.load import load_any

        services.apply_environment()
        try:
            files = find_model(name, services.home())
            return Model(files.name, files.digest, load_any(files.path, device=device))
        except ConfigError as error:
            raise LookupError(str(error)) from error
        except ServiceError as error:
            raise ConnectionError(f"{error}; `pairmill up` starts the servers of this project") from error


def _name_of(image: Any, number: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {number}"


def _read(image: Any) -> bytes:
    """Return the bytes of a file of an image."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    import io

    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _stack(batches: Sequence[Any]) -> Any:
    """Return (N, D) of the rows of all batches; (0, 0) without one."""
    import numpy as np

    return np.concatenate([batch.numpy() for batch in batches]) if batches else np.zeros((0, 0), np.float32)
