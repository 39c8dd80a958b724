"""Distillation against loops over all pairs in fp64, and a teacher's features: computed once, and read by a resumed job."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dataops.errors import ConfigError, ContractError
from plugins.recipes.teacher_features import prepare_features
from tasks.engine.stage import plan
from tasks.register.card import describe_teachers
from tasks.tracking.run_metadata import build_lineage_tags
from tasks.train.stage import TRAIN, external_inputs
from tests.loss_ranks import PAIRS, TEACHER_SCALE, compute_on_ranks, make_leaves, make_teacher
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
DISTILL = {"model": "t", "weight": 0.3}
CASES: dict[str, dict[str, Any]] = {"softmax": {"distill": DISTILL}, "sigmoid": {"loss": "sigmoid", "distill": DISTILL}}


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Return the result of each case by number of ranks, joined as that of one process."""
    return compute_on_ranks(tmp_path_factory.mktemp("ranks"), CASES)


def log_softmax(row: list[Tensor]) -> list[Tensor]:
    log_sum = torch.log(torch.stack([torch.exp(value) for value in row]).sum())
    return [value - log_sum for value in row]


def slow_loss(leaves: list[Tensor], *, is_sigmoid: bool) -> Tensor:
    """Return the loss, one pairing at a time."""
    images, texts, scale = F.normalize(leaves[0], dim=1), F.normalize(leaves[1], dim=1), leaves[2].exp()
    teacher_images, teacher_texts = make_teacher().double().unbind(1)
    total, divergence = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    directions = ((images, texts, teacher_images, teacher_texts), (texts, images, teacher_texts, teacher_images))
    for rows, columns, teacher_rows, teacher_columns in directions:
        for i in range(PAIRS):
            student = log_softmax([scale * (rows[i] * columns[j]).sum() for j in range(PAIRS)])
            teacher = log_softmax([TEACHER_SCALE * (teacher_rows[i] * one).sum() for one in teacher_columns])
            divergence = divergence + sum(p.exp() * (p - q) for p, q in zip(teacher, student, strict=True))
            total = total - student[i]
    if is_sigmoid:
        total = torch.zeros((), dtype=torch.float64)
        for i in range(PAIRS):
            for j in range(PAIRS):
                logit = scale * (images[i] * texts[j]).sum() + leaves[3]
                total = total - 2 * torch.log(torch.sigmoid(logit if i == j else -logit))
    return (0.7 * total + 0.3 * divergence) / (2 * PAIRS)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_of_distillation_equal_loops_over_all_pairs(on_ranks: dict[int, Any], name: str) -> None:
    leaves = make_leaves(torch.float64)
    expected = slow_loss(leaves, is_sigmoid=name == "sigmoid")
    (3 * expected).backward()
    for ranks, results in on_ranks.items():
        found = results[name]
        assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5), ranks
        for part, leaf in zip(("images", "texts", "scale", "bias"), leaves, strict=True):
            if leaf.grad is not None:
                torch.testing.assert_close(found[part].double(), leaf.grad, rtol=1e-4, atol=1e-5, msg=f"{ranks} {part}")


@pytest.fixture
def teacher(make_job: MakeJob) -> Path:
    """Train a tiny model, and return its folder."""
    job = make_job("teacher", "vit", epochs=1)
    assert main([str(job)]) == 0
    return output_of(job)


def test_each_pair_has_its_features_and_a_second_training_reads_them(
    teacher: Path, shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    dataset = Dataset(shards, 32, 0)
    stored = prepare_features(tmp_path / "features", teacher, "t", dataset, CPU, 10)
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
    again = prepare_features(tmp_path / "features", teacher, "t", Dataset(shards, 32, 0), CPU, 10)
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


def test_a_training_with_a_teacher_is_resumed_to_the_same_bits(
    make_job: MakeJob, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {"distill": {"model": str(teacher), "weight": 0.7}}
    whole, cut = (make_job(name, "vit", epochs=2, **tables) for name in ("whole", "cut"))
    plain = make_job("plain", "vit", epochs=2)
    assert [main([str(job)]) for job in (whole, plain)] == [0, 0]
    with monkeypatch.context() as patch:
        before_step(patch, stop_at(4))
        assert main([str(cut)]) == 75
    assert main([str(cut)]) == 0
    assert outputs_of(cut) == outputs_of(whole)
    assert rows_of(whole)[0]["loss"] != rows_of(plain)[0]["loss"]


def test_key_and_metadata_name_a_teacher_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    config = TrainConfig.model_validate({"distill": {"model": str(tmp_path)}})
    with pytest.raises(ConfigError, match="holds no weights"):
        plan(TRAIN, config, 0, [])
    keys, digests = set(), set()
    for content in (b"1", b"2"):
        file.write_bytes(content)
        (source,) = external_inputs(config)
        assert (source.stage, source.key) == ("train.distill.model", str(tmp_path))
        (hook,) = used_hooks(config)
        train = build_manifest("train", inputs=[source], facts={"other_models": hook.describe_models(config)})
        assert build_lineage_tags({"train": train}, {}, {})[source.stage] == f"{tmp_path} {source.digest}"
        (sentence,) = describe_teachers(train)
        assert source.digest in sentence
        keys.add(plan(TRAIN, config, 0, []).key)
        digests.add(source.digest)
    assert len(keys) == len(digests) == 2
