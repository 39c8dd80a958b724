"""The registered model as MLflow loads it: it scores images against texts, from code and safetensors, without pickle.

This file, the modules of pairmill that it imports, those of its networks, and the weights are
copied into the model, which loads without an installation of pairmill::

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    model.predict(pd.DataFrame({"image": [data]}), params={"texts": ["a cat", "a dog"]})

Input: a column `image`, each a PNG, JPEG or WebP as bytes or as base64 (with or without
`data:image/...;base64,`). It is never read as a URL. `file:a/b.jpg` is read as a file below
`image_folder`, if the model is loaded with one. Params:

    texts      texts to compare each image with; at least one
    templates  prompts with `{c}` in place of the text, whose features are averaged; without any, the text itself

Output: one row for each image, in the order of the input:

    label          text with the highest probability
    probability    its probability
    probabilities  softmax of the scaled similarities, in the order of the texts
    similarities   cosine similarities, in the order of the texts
    error          why the image is unreadable (all other columns are then null), or null

`load_model(..., model_config={"device": "cuda", "batch_size": 256, "image_folder": "/data"})`
overrides the device, the number of images at a time, and the folder from which files may be read.
"""

import base64
import binascii
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

COLUMNS = ["label", "probability", "probabilities", "similarities", "error"]
NO_IMAGE = "neither image bytes nor base64"
FILE = "file:"
PACKAGES = ("training", "dataops", "plugins")
"""Packages of which each model has its own copy."""


def image_bytes(value: object, folder: Path | None = None) -> bytes:
    """Return the bytes of one cell of the column `image`; empty if it holds no image.

    Args:
        folder: folder from which files may be read; None: files are never read.
    """
    if isinstance(value, str) and value.startswith(FILE):
        return b"" if folder is None else _file_bytes(value.removeprefix(FILE), folder)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        return b""
    text = value.partition("base64,")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _file_bytes(name: str, folder: Path) -> bytes:
    """Return the content of a file below the folder, links resolved; empty if there is none."""
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        return path.read_bytes() if path.is_relative_to(root) and path.is_file() else b""
    except (OSError, ValueError):
        return b""


@contextmanager
def _own_modules() -> Iterator[None]:
    """Import this model's copy of PACKAGES inside the `with`, and leave the modules of the process as they were.

    Otherwise two models with different versions of the code could not be loaded by one process.
    """
    others = _remove_modules()
    try:
        yield
    finally:
        _remove_modules()
        sys.modules.update(others)


def _remove_modules() -> dict[str, Any]:
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in PACKAGES}


class ClipModel(PythonModel):
    """A CLIP model that scores images against texts."""

    def load_context(self, context: PythonModelContext) -> None:
        """Import the model's code, and read the weights, vocabulary and dimensions."""
        with _own_modules():
            from training.evaluation.class_weights import compute_class_weights
            from training.evaluation.encode import encode_images
            from training.evaluation.samples import Sample
            from training.model.checkpoint import load_model

            settings = context.model_config or {}
            self.loaded = load_model(Path(context.artifacts["model"]), device=str(settings.get("device", "cpu")))
        self.compute_class_weights, self.encode_images, self.sample = compute_class_weights, encode_images, Sample
        self.batch_size = int(settings.get("batch_size", 64))
        folder = settings.get("image_folder")
        self.folder = Path(str(folder)) if folder else None

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  # MLflow allows this form, its stub does not
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, object] | None = None
    ) -> pd.DataFrame:
        """Compare each image with each text.

        Raises: ValueError without texts, without a column `image`, or if a template lacks `{c}`.
        """
        texts, templates = _check_arguments(model_input, params or {})
        weights_CD = self.compute_class_weights(self.loaded, texts, templates)
        samples = [
            self.sample(str(row), image_bytes(value, self.folder)) for row, value in enumerate(model_input["image"])
        ]
        rows: list[tuple[Any, ...]] = []
        for batch in self.encode_images(self.loaded, samples, self.batch_size):
            scored: list[tuple[Any, ...]] = []
            if batch.features_RD.shape[0]:
                cosines_RC = batch.features_RD @ weights_CD.T
                probabilities_RC = (cosines_RC * self.loaded.model.logit_scale.exp()).softmax(dim=-1)
                for cosines, chances in zip(cosines_RC.tolist(), probabilities_RC.tolist(), strict=True):
                    best = cosines.index(max(cosines))  # the first of equal ones
                    scored.append((texts[best], chances[best], chances, cosines, None))
            remaining = iter(scored)
            for sample, error in zip(batch.samples, batch.errors, strict=True):
                reason = error if sample.image else NO_IMAGE
                rows.append(next(remaining) if error is None else (None, None, None, None, reason))
        return pd.DataFrame(rows, columns=pd.Index(COLUMNS), index=model_input.index, dtype=object)


def _check_arguments(model_input: pd.DataFrame, params: dict[str, Any]) -> tuple[list[str], list[str]]:
    texts = [str(text) for text in params.get("texts", [])]
    templates = [str(template) for template in params.get("templates", [])] or ["{c}"]
    if "image" not in model_input.columns:
        raise ValueError(f"no column 'image'; the columns are {', '.join(map(str, model_input.columns))}")
    if not any(text.strip() for text in texts):
        raise ValueError('no texts to compare the images with; pass params={"texts": ["a cat", "a dog"]}')
    bad = [template for template in templates if "{c}" not in template]
    if bad:
        raise ValueError(f"template {bad[0]!r} has no {{c}} in place of the text")
    return texts, templates


set_model(ClipModel())
