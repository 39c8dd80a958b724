"""Encode texts and images with a CLIP model on request: `python -m plugins.browse.encoder_job JOB.json`.

One request is one line of JSON on standard input, and one line of JSON on standard output answers it::

    {"texts": ["a dog"]}                                       {"features": [[...]]}
    {"image": "<base64>"}                                      {"features": [[...]]}
    {"shard": "/path/00000.tar", "spans": [[512, 3124]], "output": "/path/x.npy"}      {"encoded": 1}

Features have unit norm and are float32. An image that cannot be decoded has a feature of zeros. The answer to a request
that fails is `{"error": ...}`. The first line of the output, after the model was loaded, is `{"dimensions": D}`.
"""

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from dataops.errors import ContractError
from dataops.regular_files import open_regular
from training.evaluation.encode import EvaluatedModel, encode_captions, encode_shard_images
from training.job import JobFile, resolve_device, run_command
from training.model.load import load_any

MAX_SPAN = 256 << 20
"""Maximum size of an image member, in bytes."""


class EncoderJob(JobFile):
    """The fields of a job file."""

    model: Path
    """Folder or file of the model: see training/model/load.py."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if torch sees it, else cpu."""
    threads: int | None = None
    """Threads that decode and, on the CPU, encode; None: one a core."""


def run_job(job: EncoderJob, requests: TextIO = sys.stdin, answers: TextIO | None = None) -> None:
    """Answer requests until the input ends."""
    if answers is None:  # whatever else writes to standard output goes to standard error
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
    device = resolve_device(job.device).type
    loaded = load_any(job.model, device=device)
    dimensions = encode_captions(loaded, ["a"], device, job.threads).shape[1]
    _write(answers, {"dimensions": dimensions})
    for line in requests:
        try:
            answer = _answer(loaded, json.loads(line), dimensions, device, job.threads)
        except Exception as error:  # a request or an image may raise anything, and the next one is answered
            answer = {"error": f"{type(error).__name__}: {error}"}
        _write(answers, answer)


def _write(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _answer(
    loaded: EvaluatedModel, request: dict[str, Any], dimensions: int, device: str, threads: int | None
) -> dict[str, Any]:
    if "texts" in request:
        return {"features": encode_captions(loaded, request["texts"], device, threads).float().tolist()}
    if "image" in request:
        features = encode(loaded, iter([(0, base64.b64decode(request["image"]))]), 1, dimensions, device, threads)
        if not features.any():
            raise ContractError("the image cannot be decoded")
        return {"features": features.tolist()}
    spans = request["spans"]
    with open_regular(request["shard"]) as file:

        def images() -> Iterator[tuple[int, bytes]]:
            for number, (offset, size) in enumerate(spans):
                if offset < 0 or not 0 <= size <= MAX_SPAN:
                    raise ContractError(f"{request['shard']}: a member of {size} bytes at byte {offset}")
                file.seek(offset)
                yield number, file.read(size)

        np.save(request["output"], encode(loaded, images(), len(spans), dimensions, device, threads))
    return {"encoded": len(spans)}


def encode(
    loaded: EvaluatedModel,
    images: Iterator[tuple[int, bytes]],
    count: int,
    dimensions: int,
    device: str,
    threads: int | None,
) -> np.ndarray:
    """Return the features (count, D) of numbered images; zeros for those that cannot be decoded."""
    found = np.zeros((count, dimensions), np.float32)
    for numbers, features in encode_shard_images(loaded, images, device, threads):
        found[numbers] = features.float().numpy()
    return found


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, EncoderJob, run_job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
