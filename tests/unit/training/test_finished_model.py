"""Reading a finished model: errors name what is missing or does not fit."""

import json
import pickle

import pytest
import torch

from dataops.errors import ContractError
from tests.small_model import write_model
from training.model.checkpoint import load_model, save_model


class Bomb:
    """Whose unpickling ends the test."""

    def __reduce__(self):
        return pytest.fail, ("it was run",)


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path)


def test_a_model_survives_a_round_trip(folder):
    loaded = load_model(folder)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.config.text_cfg.vocab_size == loaded.tokenizer.vocab_size
    card = json.loads((folder / "model.json").read_text())
    assert card["vision_cfg"]["image_size"] == card["preprocess"]["image_size"] == 32
    assert card["tokenizer"]["end_id"] == loaded.tokenizer.vocab_size - 1
    assert loaded.model.encode_text(loaded.tokenizer(["a red apple", "pear"])).shape == (2, 16)
    before = {name: (folder / name).read_bytes() for name in ("model.safetensors", "model.json", "tokenizer.json")}
    save_model(folder, loaded.model, loaded.tokenizer, loaded.preprocess)
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "pickle", "torch"])
def test_a_damaged_model_file_raises_an_error_that_names_it(folder, name, damage):
    """A pickle is not run."""
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "pickle":
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    elif damage == "torch":
        torch.save({"state_dict": Bomb()}, folder / name)
    else:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(ContractError, match=name):
        load_model(folder)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("preprocess", {"mean": [0, 0, 0]}, "preprocess"),
        ("text_cfg", {"vocab_size": 301}, "the model 301"),
        ("vision_cfg", {"layers": 2}, "does not fit"),
        ("vision_cfg", {"head_width": 7}, "head_width"),
    ],
)
def test_an_inconsistent_model_json_raises_contract_error(folder, section, change, message):
    card = json.loads((folder / "model.json").read_text())
    card[section].update(change)
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ContractError, match=message):
        load_model(folder)
