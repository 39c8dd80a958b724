"""The `[train]` table and the models' JSON."""

import pytest
from pydantic import ValidationError

from dataops.errors import ConfigError
from training import config as config_module
from training.config import TrainConfig
from training.model_config import MODELS, load_model_config


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_model_is_valid(path):
    assert load_model_config(path.stem) == load_model_config(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "valid dictionary"),
        ('{"embed_dim": 8, "vision_cfg": {"layers": [1, 1]}, "text_cfg": {}}', "four stages"),
        ('{"embed_dim": 8, "vision_cfg": {"image_size": 100}, "text_cfg": {}}', "does not divide"),
        ('{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"heads": 7}}', "text_cfg"),
        ('{"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}, "timm": 1}', "timm"),
    ],
)
def test_an_invalid_model_file_raises_an_error_with_file_and_reason(tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_model_config(str(path))
    assert str(path) in str(error.value)


def test_the_loader_has_the_cores_of_the_process_by_default(monkeypatch):
    monkeypatch.setattr(config_module, "count_cores", lambda: 7)
    assert [TrainConfig(workers=workers).loader_threads for workers in (None, 0, 3)] == [7, 0, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 1}, {"precision": "fp8"}, {"lr": 0}, {"unknown": 1}, {"prompts": []}, {"prompts": ["no slot"]},
        {"vocab_size": 10}, {"nproc": 0},
        {"crop_area": [0.9, 0.5]}, {"crop_area": [0, 1]}, {"launch": "A cloud"}, {"max_spike": -1},
        {"schedule": "step"}, {"loss": "none"}, {"optimizer": ""},
    ],
    ids=str,
)  # fmt: skip
def test_invalid_values_raise_validation_error(change):
    with pytest.raises(ValidationError):
        TrainConfig.model_validate(change)


@pytest.mark.parametrize(
    ("fields", "units", "expected"),
    [
        ({"device": "cpu"}, "bf16", "bf16"),
        ({"device": "cpu"}, "fp32", "fp32"),
        ({"device": "cuda"}, "fp16", "fp16"),
        ({"precision": "fp32"}, "bf16", "fp32"),
        ({"launch": "work_pool"}, "fp32", "bf16"),
        ({"launch": "work_pool", "device": "cpu"}, "bf16", "fp32"),
    ],
)
def test_the_key_names_the_precision_of_the_machine_that_trains(monkeypatch, fields, units, expected):
    monkeypatch.setattr(config_module, "find_precision", lambda on_gpu: units)
    config = TrainConfig.model_validate(fields)
    assert config.key_config()["precision"] == config.with_precision().precision == expected
