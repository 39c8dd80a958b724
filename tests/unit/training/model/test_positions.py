"""Position embeddings of another size against open_clip's and Pillow's, and a training that continues at another size."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.oracles import open_clip
from tests.trainings import output_of, run_training
from training.config import TrainConfig
from training.loop.initial_model import build_initial_model
from training.model.checkpoint import load_model
from training.model.pretrained import fit_positions

pytestmark = pytest.mark.xdist_group("open_clip")


def random_positions(length, width):
    return torch.randn(length, width, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize(("before", "after"), [(7, 14), (16, 24), (14, 7), (3, 5)])
@pytest.mark.parametrize("name", ["visual.positional_embedding", "visual.attnpool.positional_embedding"])
def test_image_positions_are_resized_as_by_open_clip_and_pillow(name, before, after):
    found, expected = random_positions(before**2 + 1, 6), torch.empty(after**2 + 1, 6)
    resized = fit_positions({name: found}, {name: expected})[name]
    assert resized[0].equal(found[0]), "the class token has no place"
    theirs = {"visual.positional_embedding": found}
    open_clip().model.resize_pos_embed(theirs, SimpleNamespace(visual=SimpleNamespace(grid_size=(after, after))))
    assert resized.equal(theirs["visual.positional_embedding"])
    for channel in range(6):
        grid = Image.fromarray(found[1:, channel].view(before, before).numpy())
        oracle = np.asarray(grid.resize((after, after), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(resized[1:, channel].view(after, after), oracle, atol=1e-5)


def test_text_positions_are_cut_or_interpolated_as_by_open_clip():
    found = random_positions(5, 4)
    cut = fit_positions({"positional_embedding": found}, {"positional_embedding": torch.empty(3, 4)})
    assert cut["positional_embedding"].equal(found[:3])
    longer = fit_positions({"positional_embedding": found}, {"positional_embedding": torch.empty(9, 4)})
    theirs = {"positional_embedding": found}
    open_clip().model.resize_text_pos_embed(theirs, SimpleNamespace(positional_embedding=torch.empty(9, 4)))
    assert longer["positional_embedding"].equal(theirs["positional_embedding"])


def test_embeddings_of_another_model_stay_and_are_an_error():
    found = {"visual.positional_embedding": random_positions(8, 6)}
    for expected in (torch.empty(10, 6), torch.empty(10, 7), torch.empty(8, 6)):
        assert fit_positions(found, {"visual.positional_embedding": expected}) == found


@pytest.mark.usefixtures("process_state")
@pytest.mark.parametrize(("tower", "grid"), [("vit", 4), ("resnet", 2)])
def test_a_training_finishes_at_another_size(make_job, tower, grid):
    """Continue a finished model with twice the side and a shorter context."""
    first = make_job("small", tower, epochs=1)
    assert run_training(first) == 0
    start = load_file(output_of(first) / "model.safetensors")
    settings = {"init": str(output_of(first)), "vocabulary": str(output_of(first) / "tokenizer.json")}
    job = make_job("large", tower, epochs=1, image_size=64, **settings)
    model = Path(json.loads(job.read_text())["train"]["model"])
    dimensions = json.loads(model.read_text())
    model.write_text(json.dumps({**dimensions, "text_cfg": {**dimensions["text_cfg"], "context_length": 12}}))
    config = TrainConfig.model_validate(json.loads(job.read_text())["train"])
    built = build_initial_model(config, config.load_dimensions().with_vocab_size(len(start["token_embedding.weight"])))
    name = "visual.positional_embedding" if tower == "vit" else "visual.attnpool.positional_embedding"
    weights = built.state_dict()
    assert weights[name].shape == (grid**2 + 1, start[name].shape[1])
    assert weights["positional_embedding"].equal(start["positional_embedding"][:12])
    assert all(weights[key].equal(start[key]) for key in start if not key.endswith("positional_embedding"))
    assert run_training(job) == 0
    ended = load_model(output_of(job))
    assert ended.config.vision_cfg.image_size == ended.preprocess.image_size == 64
