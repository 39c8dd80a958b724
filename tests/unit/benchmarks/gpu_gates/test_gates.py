"""Each gate fails where the results that it compares differ."""

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_gates import arithmetic, jobs, peers, reads
from benchmarks.gpu_gates.arithmetic import compare_gradient_cache, compare_packed_texts, compare_precisions
from benchmarks.gpu_gates.inputs import TOYS, load_dimensions, make_batch, write_shards
from benchmarks.gpu_gates.jobs import (
    OUTPUTS,
    Trial,
    compare_resumed_job,
    compare_two_ranks,
    follow_memory_remedy,
    measure_grace,
)
from benchmarks.gpu_gates.outcomes import FAIL, MEASURED, NOT_RUN, PASS, Setting
from benchmarks.gpu_gates.steps import count_flops, measure_steps
from benchmarks.gpu_gates.syncs import report_syncs
from tests.trainings import process_state
from training.data.loader import Dataset
from training.loop.inputs import InputMaker
from training.losses.contrastive import StepOutcome
from training.model.packing import PackedTexts, pack_texts

__all__ = ["process_state"]  # a fixture
pytestmark = pytest.mark.usefixtures("process_state")


@pytest.fixture
def toy(tmp_path: Path) -> Setting:
    return Setting("cpu", tmp_path)


def test_a_gradient_cache_that_drops_a_part_fails(toy: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    backward = arithmetic.backward

    def drop_last(model: Any, images: Any, texts: Any, config: Any, *rest: Any) -> Any:
        if len(texts) > 1:
            images, texts = images[:16], texts[:4]
        return backward(model, images, texts, config, *rest)

    monkeypatch.setattr(arithmetic, "backward", drop_last)
    assert compare_gradient_cache(toy).status == FAIL


def test_packed_texts_without_their_first_token_fail(toy: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "pack_texts", lambda tokens: pack_texts(tokens[:, 1:]))
    assert compare_packed_texts(toy).status == FAIL


@pytest.mark.parametrize(("found", "status"), [(1.019, PASS), (1.021, FAIL), (math.nan, FAIL)])
def test_bf16_may_differ_by_2_percent(toy: Setting, monkeypatch: pytest.MonkeyPatch, found: float, status: str) -> None:
    monkeypatch.setattr(
        arithmetic, "train_losses", lambda config, *_, **__: [found if config.precision == "bf16" else 1.0] * 50
    )
    assert compare_precisions(toy).status == status


@pytest.mark.parametrize(
    ("device", "capability", "installed", "reason"),
    [
        ("cpu", (9, 0), True, "needs a card of compute capability 8.9"),
        ("cuda", (8, 6), True, "needs a card of compute capability 8.9"),
        ("cuda", (9, 0), False, "torchao is not installed"),
        ("cuda", (8, 9), True, None),
    ],
)
def test_fp8_does_not_run_without_its_card_and_package(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    capability: tuple[int, int],
    installed: bool,
    reason: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(arithmetic, "find_spec", lambda name: name if installed else None)
    setting = Setting(device, tmp_path)
    assert arithmetic.why_no_fp8(setting) == reason
    if reason is not None:
        outcomes = arithmetic.compare_fp8(setting), measure_steps(setting, "ViT-B-32", "ours, fp8, compiled")
        assert [outcome.status for outcome in outcomes] == [NOT_RUN] * 2


def test_the_lines_that_wait_are_listed() -> None:
    found = report_syncs(["step.py:7 item"] * 10 + ["loss.py:3 tolist"], steps=5)
    assert found.status == FAIL
    assert "step.py:7 item 10 times" in found.message
    assert report_syncs(["step_recorder.py:38 tolist"] * 5, steps=5).status == PASS


def test_a_card_s_warnings_of_waits_are_counted_with_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with reads.counting_on_card() as found:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    (line,) = found
    assert line.endswith(".py:" + line.rpartition(":")[2])
    assert modes == ["warn", "default"]


def test_losses_and_zero_shot_equal_open_clip_s(toy: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    assert peers.compare_losses(toy).status == PASS
    assert peers.compare_zero_shot(toy).status == PASS
    assert measure_steps(toy, "ViT-B-32", "open_clip").status == MEASURED
    contrastive_loss = peers.contrastive_loss

    def scaled(*arguments: Any, **options: Any) -> StepOutcome:
        outcome = contrastive_loss(*arguments, **options)
        return replace(outcome, loss=outcome.loss * 1.001)

    monkeypatch.setattr(peers, "contrastive_loss", scaled)
    assert peers.compare_losses(toy).status == FAIL
    monkeypatch.setattr(peers, "compute_class_weights", lambda model, names, _: torch.eye(8, 16))
    assert peers.compare_zero_shot(toy).status == FAIL


def test_without_open_clip_its_gates_do_not_run(toy: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert peers.compare_losses(toy).status == peers.compare_zero_shot(toy).status == NOT_RUN


# Jobs, whose processes are replaced by ones that write what a job would ------------------------------------------------


def replace_jobs(monkeypatch: pytest.MonkeyPatch, run: Callable[[Path, Trial, int], list[int]]) -> list[Path]:
    """Run this function in place of each job; return the list of the jobs' files."""
    started: list[Path] = []

    def run_ranks(setting: Setting, path: Path, trial: Trial | None = None, ranks: int = 1) -> list[int]:
        started.append(path)
        path.with_suffix("").mkdir(exist_ok=True)
        path.with_suffix(".log").write_text(f"16 pairs, fp32 on cpu x {ranks}\nthe last line\n")
        return run(path, trial or Trial(), ranks)

    monkeypatch.setattr(jobs, "run_ranks", run_ranks)
    return started


@pytest.mark.parametrize(
    ("is_same", "codes", "status"),
    [(True, {15: 75, 9: -9}, PASS), (False, {15: 75, 9: -9}, FAIL), (True, {15: 0, 9: -9}, FAIL)],
)
def test_a_resumed_job_must_stop_with_75_and_end_in_the_same_bytes(
    toy: Setting, monkeypatch: pytest.MonkeyPatch, is_same: bool, codes: dict[int, int], status: str
) -> None:
    def run(path: Path, trial: Trial, ranks: int) -> list[int]:
        for name in OUTPUTS:
            (path.with_suffix("") / name).write_text('{"loss": 1.0}\n')
        if not is_same:
            (path.with_suffix("") / "model.safetensors").write_text(path.stem)
        return [0 if trial.signum is None else codes[trial.signum]]

    replace_jobs(monkeypatch, run)
    assert compare_resumed_job(toy).status == status


@pytest.mark.parametrize(
    ("message", "first", "second", "status"),
    [
        ("set grad_cache to less than 2000", 2, 0, PASS),
        ("set grad_cache to less than 2000", 2, 2, FAIL),
        ("set grad_cache to less than 2000", 75, 0, FAIL),
        ("lower batch_size", 2, 0, FAIL),
    ],
)
def test_the_remedy_for_memory_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, first: int, second: int, status: str
) -> None:
    def run(path: Path, trial: Trial, ranks: int) -> list[int]:
        assert trial.memory == 0.1
        cached = json.loads(path.read_text())["train"].get("grad_cache")
        if cached is None:
            (path.with_suffix("") / "failure.json").write_text(json.dumps({"message": message}))
            return [first]
        assert cached == 2000 // 32
        return [second]

    replace_jobs(monkeypatch, run)
    monkeypatch.setattr(jobs, "write_shards", lambda *_: [])
    card = SimpleNamespace(total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert follow_memory_remedy(Setting("cuda", tmp_path)).status == status


@pytest.mark.parametrize(("losses", "ranks", "status"), [(1.00005, 2, PASS), (1.001, 2, FAIL), (1.0, 1, FAIL)])
def test_two_ranks_must_be_two_and_have_the_losses_of_one(
    toy: Setting, monkeypatch: pytest.MonkeyPatch, losses: float, ranks: int, status: str
) -> None:
    def run(path: Path, trial: Trial, asked: int) -> list[int]:
        loss = losses if asked == 2 else 1.0
        (path.with_suffix("") / "metrics.jsonl").write_text(json.dumps({"loss": loss}) + "\n")
        path.with_suffix(".log").write_text(f"18 pairs, fp32 on cpu x {ranks if asked == 2 else 1}\n")
        return [0] * asked

    replace_jobs(monkeypatch, run)
    assert compare_two_ranks(toy).status == status


def test_a_stop_without_a_checkpoint_fails(toy: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(path: Path, trial: Trial, ranks: int) -> list[int]:
        path.with_suffix(".signalled").write_text("0")
        (path.with_suffix("") / "metrics.jsonl").touch()
        return [75]

    replace_jobs(monkeypatch, run)
    found = measure_grace(toy)
    assert found.status == FAIL
    assert "no checkpoint" in found.message


# Inputs ---------------------------------------------------------------------------------------------------------------


def test_the_inputs_are_the_same_each_time_and_the_loader_reads_the_shards(toy: Setting) -> None:
    config = arithmetic.make_config(toy)
    dimensions = load_dimensions(config)
    first, again, other = (make_batch(dimensions, 6, step) for step in (1, 1, 2))
    assert (first.pixels_BSS3 == again.pixels_BSS3).all()
    assert first.tokens_BL is not None
    assert again.tokens_BL is not None
    assert first.tokens_BL.equal(again.tokens_BL)
    assert (first.pixels_BSS3 != other.pixels_BSS3).any()
    assert first.tokens_BL.max() == dimensions.text_cfg.vocab_size - 1
    dataset = Dataset(write_shards(toy.folder, 7, 40), TOYS["vit"]["image_size"], 0)
    assert len(dataset) == len(list(dataset.captions())) == 7
    assert not dataset.skipped
    dataset.close()


def test_padded_texts_count_their_whole_context(toy: Setting) -> None:
    config = arithmetic.make_config(toy)
    dimensions = load_dimensions(config)
    inputs = InputMaker(config, dimensions, 0, 10, pin=False)(make_batch(dimensions, 6, 1))
    assert isinstance(inputs.texts[0], PackedTexts)
    assert inputs.tokens < 6 * dimensions.text_cfg.context_length
    packed, padded = (count_flops(dimensions, [inputs], is_padded=padded) for padded in (False, True))
    assert 0 < packed < padded
