"""Features that other models have of a dataset: computed once, shared by trainings, and read by a resumed one."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dataops.errors import ConfigError, ContractError
from plugins.recipes import stored_features
from plugins.recipes.teacher_features import prepare_features
from tasks.engine.stage import plan
from tasks.register.model_card import describe_teachers
from tasks.tracking.run_metadata import build_lineage_tags
from tasks.train.stage import TRAIN, external_inputs
from tests.manifests import build_manifest
from tests.trainings import before_step, output_of, outputs_of, pairs, rows_of, stop_at, write_shard
from training.config import TrainConfig
from training.data.loader import Dataset
from training.hooks import used_hooks
from training.model.checkpoint import load_model
from training.model.preprocess import decode_rgb
from training.train import main

MakeJob = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("process_state")
CPU = torch.device("cpu")


@pytest.fixture
def teacher(make_job: MakeJob) -> Path:
    """Train a tiny model, and return its folder."""
    job = make_job("teacher", "vit", epochs=1)
    assert main([str(job)]) == 0
    return output_of(job)


def test_each_pair_has_its_features_and_a_second_training_reads_them(
    teacher: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stored_features, "BLOCK", 10)
    monkeypatch.setattr("plugins.recipes.teacher_features.BLOCK", 10)
    caplog.set_level(logging.INFO)
    dataset = Dataset(shards, 32, 0)
    stored = prepare_features(tmp_path / "features", teacher, "t", dataset, CPU)
    assert len(list(stored.folder.glob("block-*.npy"))) == 3
    loaded = load_model(teacher, device="cpu")
    order = np.array([24, 3, 25 + 7, 10])
    found = torch.from_numpy(stored.read(order))
    for row, sample in zip(found, (order % 25).tolist(), strict=True):
        data, caption = dataset.file_and_caption(sample)
        with torch.inference_mode():
            image = loaded.model.encode_image(loaded.preprocess(decode_rgb(data))[None])
            text = loaded.model.encode_text(loaded.tokenizer([caption]))
        torch.testing.assert_close(row, F.normalize(torch.cat([image, text])), rtol=0, atol=1e-3)
    assert stored.logit_scale == pytest.approx(loaded.model.logit_scale.item())

    assert caplog.text.count("features of t: block") == 3
    (stored.folder / "block-000001.npy").write_bytes(b"damaged")
    again = prepare_features(tmp_path / "features", teacher, "t", Dataset(shards, 32, 0), CPU)
    assert again.folder == stored.folder
    assert caplog.text.count("features of t: block") == 4, "only the damaged block is computed again"
    np.testing.assert_array_equal(again.read(np.arange(10, 20)), stored.read(np.arange(10, 20)))


def test_a_pair_without_features_is_named(teacher: Path, tmp_path: Path) -> None:
    members = [*pairs(0, 3)[:6], ("bad.jpg", b"no image"), ("bad.txt", b"a caption")]
    dataset = Dataset([write_shard(tmp_path / "0.tar", members)], 32, 0)
    stored = prepare_features(tmp_path / "features", teacher, "t", dataset, CPU)
    assert stored.read(np.arange(2)).shape == (2, 2, 16)
    with pytest.raises(ContractError, match=r"t has no features of sample 'bad' of 0\.tar"):
        stored.read(np.arange(3))


def test_a_training_with_a_teacher_and_a_reference_is_resumed_to_the_same_bits(
    make_job: MakeJob, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {"distill": {"model": str(teacher), "weight": 0.7}, "reference": {"model": str(teacher)}}
    whole, cut = (make_job(name, "vit", epochs=2, **tables) for name in ("whole", "cut"))
    plain = make_job("plain", "vit", epochs=2)
    assert [main([str(job)]) for job in (whole, plain)] == [0, 0]
    with monkeypatch.context() as patch:
        before_step(patch, stop_at(4))
        assert main([str(cut)]) == 75
    assert main([str(cut)]) == 0
    assert outputs_of(cut) == outputs_of(whole)
    assert rows_of(whole)[0]["loss"] != rows_of(plain)[0]["loss"]


def test_a_job_reads_features_from_the_folder_that_it_names(make_job: MakeJob, teacher: Path, tmp_path: Path) -> None:
    job = make_job("a", "vit", epochs=1, distill={"model": "models:/t/1"})
    named = {"files": {"distill.model": str(teacher)}, "features": str(tmp_path / "kept")}
    job.write_text(json.dumps({**json.loads(job.read_text()), **named}))
    assert main([str(job)]) == 0
    assert len(list((tmp_path / "kept").glob("*/block-000000.npy"))) == 1


@pytest.mark.parametrize("role", ["distill", "reference"])
def test_key_and_metadata_name_a_teacher_by_its_content(tmp_path: Path, role: str) -> None:
    file = tmp_path / "model.safetensors"
    config = TrainConfig.model_validate({role: {"model": str(tmp_path)}})
    with pytest.raises(ConfigError, match="holds no weights"):
        plan(TRAIN, config, 0, [])
    keys, digests = set(), set()
    for content in (b"1", b"2"):
        file.write_bytes(content)
        (source,) = external_inputs(config)
        assert (source.stage, source.key) == (f"train.{role}.model", str(tmp_path))
        (hook,) = used_hooks(config)
        train = build_manifest("train", inputs=[source], facts={"other_models": hook.describe_models(config)})
        assert build_lineage_tags({"train": train}, {}, {})[source.stage] == f"{tmp_path} {source.digest}"
        (sentence,) = describe_teachers(train)
        assert source.digest in sentence
        keys.add(plan(TRAIN, config, 0, []).key)
        digests.add(source.digest)
    assert len(keys) == len(digests) == 2
