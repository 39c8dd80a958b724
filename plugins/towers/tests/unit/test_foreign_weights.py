"""Pretrained weights are in the key of a training, and in its facts with their owner."""

from dataops.digest import file_sha256
from plugins.towers.tests.made_towers import table_of
from tasks.engine.stage import plan
from tasks.train.stage import TRAIN, describe_weights, external_inputs
from training.config import TrainConfig


def write_config(folder, **fields):
    """Return a config whose towers start from two files; their content does not matter here."""
    (folder / "vectors").mkdir(exist_ok=True)
    for name in ("vectors/matrix.safetensors", "vectors/words.txt", "net.safetensors"):
        (folder / name).write_bytes(name.encode())
    tables = {
        "text_init": {"kind": "words", "path": str(folder / "vectors"), "license": "CC0"},
        "image_init": table_of(folder / "net.safetensors", architecture="resnet18"),
    }
    return TrainConfig.model_validate({**tables, **fields})


def test_each_file_is_in_the_key(tmp_path):
    config = write_config(tmp_path)
    keys = {plan(TRAIN, config, 0, []).key}
    for name in ("vectors/matrix.safetensors", "vectors/words.txt", "net.safetensors"):
        (tmp_path / name).write_bytes(b"other")
        keys.add(plan(TRAIN, config, 0, []).key)
    assert len(keys) == 4
    assert [one.stage for one in external_inputs(config)] == ["train.text_init", "train.image_init"]


def test_the_facts_name_all_weights_of_others(tmp_path):
    found = describe_weights(write_config(tmp_path))
    assert found == [
        {
            "tower": tower, "name": name, "version": "", "license": license_, "file": file,
            "sha256": file_sha256(tmp_path / folder / file),
        }
        for tower, name, license_, folder, file in (
            ("text", "vectors", "CC0", "vectors", "matrix.safetensors"),
            ("image", "net.safetensors", "MIT", "", "net.safetensors"),
        )
    ]  # fmt: skip
    start = tmp_path / "start.safetensors"
    start.write_bytes(b"1")
    (whole,) = describe_weights(TrainConfig(init=str(start)))
    assert (whole["tower"], whole["name"], whole["license"]) == ("both", "start.safetensors", "")
    (hub,) = describe_weights(TrainConfig(init="hf-hub:owner/name@abc"))
    assert (hub["name"], hub["sha256"]) == ("hf-hub:owner/name@abc", "")
    assert describe_weights(TrainConfig()) == []
