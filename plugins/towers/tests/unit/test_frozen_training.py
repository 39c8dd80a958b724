"""Trainings that start from pretrained towers: the same bits after a stop, features computed once, and a finished model."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import training.loop.step as step_module
from dataops.errors import ConfigError
from plugins.towers import image_features as image_features_module
from plugins.towers import text_features as text_features_module
from plugins.towers.tests.made_towers import write_bert, write_words
from tests.trainings import output_of, rows_of
from training.config import TrainConfig
from training.data.loader import Dataset
from training.export import export
from training.model.checkpoint import load_model
from training.model_config import BackboneConfig
from training.towers.towers import BackboneTower, PretrainedTextTower, build_backbone
from training.train import OUTPUTS, main

MakeJob = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("process_state")
ARCHITECTURE = "resnet18"
PLAIN = {"workers": 2}


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, dict[str, object]]:
    """Return the tables of a sentence encoder and a backbone, both frozen."""
    write_bert(tmp_path / "bert")
    torch.manual_seed(1)
    config = BackboneConfig(kind="backbone", architecture=ARCHITECTURE, image_size=32, mean=(0, 0, 0), std=(1, 1, 1))
    save_file(build_backbone(config).state_dict(), tmp_path / "net.safetensors")
    return {
        "text_init": {"kind": "bert", "path": str(tmp_path / "bert"), "license": "MIT"},
        "image_init": {
            "path": str(tmp_path / "net.safetensors"), "license": "MIT", "architecture": ARCHITECTURE, "frozen": True
        },
    }  # fmt: skip


def outputs_of(job: Path) -> dict[str, bytes]:
    return {name: (output_of(job) / name).read_bytes() for name in OUTPUTS}


def stop_in_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take, calls = step_module.prepare_images, []

    def stop(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*arguments)

    monkeypatch.setattr(step_module, "prepare_images", stop)


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_training_on_frozen_towers_ends_in_the_same_bits_after_a_stop(
    make_job: MakeJob, tables: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch, is_cached: bool
) -> None:
    tables = {name: {**table, "cache": is_cached} for name, table in tables.items()}
    jobs = [make_job(name, image_size=32, **PLAIN, **tables) for name in ("a", "b")]
    assert main([str(jobs[0])]) == 0
    rows = rows_of(jobs[0])
    assert rows[-1]["loss"] < rows[0]["loss"]
    stop_in_step(5, monkeypatch)
    assert main([str(jobs[1])]) == 75
    monkeypatch.undo()
    for tower, name in ((BackboneTower, "encode"), (PretrainedTextTower, "encode")):
        if is_cached:  # the second start reads all features
            monkeypatch.setattr(tower, name, None)
    assert main([str(jobs[1])]) == 0
    assert outputs_of(jobs[0]) == outputs_of(jobs[1])
    assert not (output_of(jobs[1]) / "prepared").exists()


def test_cached_features_are_those_of_each_step(make_job: MakeJob, tables: dict[str, dict[str, object]]) -> None:
    """The images of the first job are squares, so a random crop of the height is that of the centre."""
    from tests.trainings import jpeg, write_shard

    job = json.loads(make_job("a", image_size=32, **PLAIN, **tables).read_text())
    members = [
        m for n in range(20) for m in ((f"{n:03d}.jpg", jpeg(n, (40, 40))), (f"{n:03d}.txt", f"thing {n}".encode()))
    ]
    shard = write_shard(Path(job["output"]).parent / "square.tar", members)
    losses = []
    for name, is_cached in (("cached", True), ("computed", False)):
        train = job["train"] | {key: {**table, "cache": is_cached} for key, table in tables.items()}
        path = Path(job["output"]).parent / f"{name}.json"
        output = str(path.with_suffix(""))
        path.write_text(json.dumps({**job, "train": train, "shards": [str(shard)], "output": output}))
        assert main([str(path)]) == 0
        losses.append([row["loss"] for row in rows_of(path)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_kept_features_serve_another_job_until_weights_or_data_change(
    make_job: MakeJob, tables: dict[str, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    for module, name in ((image_features_module, "images"), (text_features_module, "texts")):
        write = module.write_features

        def record(*arguments: Any, write: Any = write, name: str = name) -> None:
            computed.append(name)
            write(*arguments)

        monkeypatch.setattr(module, "write_features", record)

    def run(output: str, **train: object) -> list[str]:
        path = make_job(output, image_size=32, epochs=1, **PLAIN, **{**tables, **train})
        path.write_text(json.dumps({**json.loads(path.read_text()), "features": str(tmp_path / "kept")}))
        computed.clear()
        assert main([str(path)]) == 0
        return sorted(computed)

    assert run("a") == ["images", "images", "texts"]  # two shards
    assert run("b", lr=0.01) == []
    assert run("c", prompts=["{}", "a picture of {}"]) == ["texts"]
    weights = load_file(tmp_path / "net.safetensors")
    save_file({name: t * 1.5 for name, t in weights.items()}, tmp_path / "net.safetensors")
    assert run("d") == ["images", "images"]


def test_an_image_that_cannot_be_read_is_skipped_with_its_reason(
    make_job: MakeJob, tables: dict[str, dict[str, object]], shards: list[Path]
) -> None:
    from tests.trainings import pairs, write_shard

    members = dict(pairs(0, 13))
    members["000004.jpg"] = members["000004.jpg"][:200]
    write_shard(shards[0], list(members.items()))
    jobs = [make_job("a", image_size=32, max_skipped=0.5, epochs=2, **PLAIN, **tables)]
    jobs.append(make_job("b", image_size=32, max_skipped=0.5, epochs=2, **PLAIN, text_init=tables["text_init"]))
    assert [main([str(job)]) for job in jobs] == [0, 0]
    skipped = [json.loads((output_of(job) / "skipped.json").read_text()) for job in jobs]
    assert len(skipped[0]) == 1
    assert skipped[0] == skipped[1]


def test_a_finished_model_loads_without_the_files_it_started_from(
    make_job: MakeJob, tables: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    """The towers are trained here, with augmentation: the features at the end are those of the weights at the end."""
    write_words(tmp_path / "words")
    words = {"kind": "words", "path": str(tmp_path / "words"), "license": "MIT", "frozen": False}
    image = {**tables["image_init"], "frozen": False, "lr_scale": 0.1}
    job = make_job("a", image_size=32, epochs=2, text_init=words, image_init=image, word_dropout=0.2, grad_cache=None)
    assert main([str(job)]) == 0
    shutil.rmtree(tmp_path / "words")
    (tmp_path / "net.safetensors").unlink()
    loaded = load_model(output_of(job))
    assert loaded.config.vision_cfg.model_dump()["architecture"] == ARCHITECTURE
    ids_BL = loaded.tokenizer(["a red thing 3", "no such word as this"])
    assert ids_BL.tolist() == [[6, 1, 5, 0], [0, 0, 0, 0]] or ids_BL[0, :3].tolist() == [6, 1, 5]
    assert torch.isfinite(loaded.model.encode_text(ids_BL)).all()
    trained = load_file(output_of(job) / "model.safetensors")
    assert not trained["text.encoder.embedding.weight"][0].any()
    for form, message in (
        ("open_clip", "its image tower has no layer norm"),
        ("hf", "no model with towers of text_init"),
    ):
        with pytest.raises(ConfigError, match=f"{form}: .*{message}"):
            export(loaded, form, tmp_path / form)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary": "clip"}, "vocabulary: text_init brings its own"),
        ({"init": "x"}, "init: both init and text_init"),
        ({"sharding": "full"}, "sharding: a model with text_init"),
        ({"patch_dropout": 0.5}, "patch_dropout"),
    ],
)
def test_a_contradiction_is_an_error_that_names_the_key(
    tables: dict[str, dict[str, object]], fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate({**tables, **fields})


def test_without_the_tables_the_key_of_a_config_stays_as_it_was() -> None:
    assert not {"text_init", "image_init"} & TrainConfig().key_config().keys()


def test_the_dataset_gives_the_square_at_the_centre(shards: list[Path]) -> None:
    dataset = Dataset(shards, 16, 0)
    loaded = dataset.load(3)
    assert isinstance(loaded, tuple)
    pixels = loaded[0]
    left = round((pixels.shape[1] - 16) / 2)
    assert dataset.load_square(3).tolist() == pixels[:, left : left + 16].tolist()
