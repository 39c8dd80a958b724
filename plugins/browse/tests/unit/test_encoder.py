"""What the encoder's process returns, compared with a direct computation."""

import numpy as np
import pytest
import torch

from dataops.errors import ConfigError, ContractError, JobFailed
from plugins.browse.encoder import Encoder, encode_image, encode_shard, encode_text
from tests.small_model import write_model
from tests.trainings import jpeg
from training.model.checkpoint import load_model
from training.model.preprocess import decode_rgb


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), ["a red thing", "blue"])


def test_texts_and_images_are_encoded(checkpoint, tmp_path):
    shard, images = tmp_path / "s.tar", [jpeg(1), b"<svg/>", jpeg(2)]
    shard.write_bytes(b"".join(images))
    starts = np.cumsum([0, *map(len, images)]).tolist()
    found = encode_shard(checkpoint, shard, [(start, len(data)) for start, data in zip(starts, images, strict=False)])
    loaded = load_model(checkpoint)
    with torch.inference_mode():
        text = torch.nn.functional.normalize(loaded.model.encode_text(loaded.tokenizer(["blue"])), dim=1)
        pixels = torch.stack([loaded.preprocess(decode_rgb(images[n])) for n in (0, 2)])
        feature = torch.nn.functional.normalize(loaded.model.encode_image(pixels), dim=1)
    np.testing.assert_allclose(encode_text(checkpoint, "blue"), text[0], atol=1e-5)
    np.testing.assert_allclose(encode_image(checkpoint, images[2]), feature[1], atol=1e-5)
    np.testing.assert_allclose(found[[0, 2]], feature, atol=1e-5)
    assert not found[1].any()


def test_a_request_that_fails_ends_nothing(checkpoint, tmp_path):
    encoder = Encoder(checkpoint)
    encoder.warm_up()
    with pytest.raises(ConfigError, match="can be decoded"):
        encoder.encode_image(b"<html>")
    with pytest.raises(ContractError, match="a member of"):
        encoder.encode_shard(checkpoint / "model.safetensors", [(0, 2**60)])
    with pytest.raises(JobFailed, match="FileNotFoundError"):
        encoder.encode_shard(tmp_path / "nowhere.tar", [(0, 1)])
    assert len(encoder.encode_text("blue")) == 16
    encoder.close()
