"""The files that a training reads besides its dataset are part of the key of its snapshot."""

from tasks.engine.stage import plan
from tasks.train.stage import TRAIN
from training.config import TrainConfig


def key(config):
    return plan(TRAIN, config, 0, []).key


def test_key_changes_with_the_content_of_the_initial_weights(tmp_path):
    weights, folder = tmp_path / "weights.safetensors", tmp_path / "model"
    folder.mkdir()
    for source, file in ((weights, weights), (folder, folder / "model.safetensors")):
        config = TrainConfig(init=str(source))
        file.write_bytes(b"1")
        first = key(config)
        assert key(config) == first
        file.write_bytes(b"2")
        assert key(config) != first


def test_key_has_the_seed_of_a_training_only_where_it_is_set():
    """So a dataset is trained on again, and keys from before that setting stay."""
    assert "seed" not in TrainConfig().key_config()
    assert len({key(TrainConfig(seed=seed)) for seed in (None, 0, 1)}) == 3
