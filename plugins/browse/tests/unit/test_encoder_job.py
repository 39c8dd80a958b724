"""The encoder's answers, compared with a direct computation."""

import base64
import io
import json

import numpy as np
import pytest
import torch

from plugins.browse.encoder_job import EncoderJob, run_job
from tests.small_model import write_model
from tests.trainings import jpeg
from training.model.checkpoint import load_model
from training.model.preprocess import decode_rgb


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), ["a red thing", "blue"])


def ask(checkpoint, *requests):
    lines, answers = io.StringIO("".join(f"{json.dumps(one)}\n" for one in requests)), io.StringIO()
    run_job(EncoderJob(model=checkpoint, device="cpu", threads=1), lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_texts_and_images_are_encoded(checkpoint, tmp_path):
    shard, output = tmp_path / "s.tar", tmp_path / "f.npy"
    images = [jpeg(1), b"<svg/>", jpeg(2)]
    shard.write_bytes(b"".join(images))
    starts = np.cumsum([0, *map(len, images)]).tolist()
    spans = [[start, len(data)] for start, data in zip(starts, images, strict=False)]
    first, texts, image, encoded = ask(
        checkpoint,
        {"texts": ["blue", "a red thing"]},
        {"image": base64.b64encode(images[2]).decode()},
        {"shard": str(shard), "spans": spans, "output": str(output)},
    )
    assert (first, encoded) == ({"dimensions": 16}, {"encoded": 3})
    loaded = load_model(checkpoint)
    with torch.inference_mode():
        text = torch.nn.functional.normalize(loaded.model.encode_text(loaded.tokenizer(["blue"])), dim=1)
        pixels = torch.stack([loaded.preprocess(decode_rgb(images[n])) for n in (0, 2)])
        feature = torch.nn.functional.normalize(loaded.model.encode_image(pixels), dim=1)
    np.testing.assert_allclose(texts["features"][0], text[0], atol=1e-5)
    np.testing.assert_allclose(image["features"][0], feature[1], atol=1e-5)
    found = np.load(output)
    np.testing.assert_allclose(found[[0, 2]], feature, atol=1e-5)
    assert not found[1].any()


@pytest.mark.parametrize(
    "request_",
    [
        {"image": base64.b64encode(b"<html>").decode()}, {"nothing": 1}, {"image": "%"}, [], "x", 3, None,
        {"shard": "/nowhere.tar", "spans": [[0, 1]], "output": "/nowhere.npy"},
        {"shard": __file__, "spans": [[0, 2**60]], "output": "/nowhere.npy"}, {"texts": 5}, {"texts": [3]},
    ],
)  # fmt: skip
def test_a_request_that_fails_is_answered_and_ends_nothing(checkpoint, request_):
    _, failed, next_ = ask(checkpoint, request_, {"texts": ["blue"]})
    assert set(failed) == {"error"}
    assert len(next_["features"][0]) == 16
