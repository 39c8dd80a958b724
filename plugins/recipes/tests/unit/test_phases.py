"""Phases of a training: its samples, images, texts and positions against slow oracles, and whole jobs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainings import RESNET, VIT, before_step, output_of, outputs_of, rows_of, stop_at
from training.config import TrainConfig
from training.data.loader import Dataset, load_batches
from training.data.sampling_plan import Plan, describe_phases
from training.loop.flops import count_step_flops
from training.model.clip import CLIP
from training.model.packing import cut_texts, pack_texts
from training.model.positions import fit_positions, resize_image_positions
from training.model.tokenizer import train_tokenizer
from training.model_config import ModelConfig
from training.train import main

MakeJob = Callable[..., Path]
BIG = {**RESNET, "vision_cfg": {**RESNET["vision_cfg"], "image_size": 96}}


def make_config(phases: list[dict[str, Any]], **train: Any) -> TrainConfig:
    return TrainConfig.model_validate({"phase": phases, "batch_size": 10, **train})


def find_phases(config: TrainConfig, samples: int) -> list[list[int]]:
    """Return the phase of each sample of each epoch, one sample at a time."""
    total, ends = samples * config.epochs, []
    for number, phase in enumerate(config.phases[:-1]):
        end = round(phase.until * total)
        before, left = end % samples, -end % samples
        if before < config.batch_sizes[number]:
            end -= before
        elif left < config.batch_sizes[number + 1]:
            end += left
        ends.append(max([end, *ends]))
    phases = [sum(end <= position for end in ends) for position in range(total)]
    return [phases[first : first + samples] for first in range(0, total, samples)]


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(2, 60),
    epochs=st.integers(1, 4),
    untils=st.lists(st.floats(0.01, 0.99), max_size=3, unique=True),
    batch_sizes=st.lists(st.integers(2, 20), min_size=4, max_size=4),
    ranks=st.integers(1, 3),
)
def test_each_sample_is_seen_once_an_epoch_in_batches_of_its_phase(
    samples: int, epochs: int, untils: list[float], batch_sizes: list[int], ranks: int
) -> None:
    phases = [{"until": u, "batch_size": b} for u, b in zip([*sorted(untils), 1.0], batch_sizes, strict=False)]
    config = make_config(phases, epochs=epochs)
    plan, plain = Plan(samples, config, 3), Plan(samples, TrainConfig(epochs=epochs), 3)
    step = seen = 0
    counts = [[0, 0] for _ in phases]
    for epoch, of_samples in enumerate(find_phases(config, samples)):
        order = plain.batch(epoch + 1, 0, 1)[1].tolist()  # all samples fit into one batch
        for phase in sorted(set(of_samples)):
            part = [sample for sample, its in zip(order, of_samples, strict=True) if its == phase]
            steps = -(-len(part) // config.batch_sizes[phase])
            for batch in np.array_split(part, steps):
                step += 1
                found = [plan.batch(step, rank, ranks) for rank in range(ranks)]
                assert {of_rank[0] for of_rank in found} == {epoch}
                assert [sample for of_rank in found for sample in of_rank[1].tolist()] == batch.tolist()
                assert plan.find_phase(step) == phase
                assert len(batch) >= plan.smallest_batch
                seen += len(batch)
                assert plan.samples_seen(step) == seen
                counts[phase] = [counts[phase][0] + 1, counts[phase][1] + len(batch)]
    assert step == plan.total_steps
    assert plan.count_phases() == [tuple(count) for count in counts]
    lines = list(describe_phases(plan, [ModelConfig.model_validate(VIT)] * len(phases)))
    assert lines[-1].startswith(
        f"phase {len(phases)}: steps {step - counts[-1][0] + 1:,} to {step:,}, {counts[-1][1]} "
    )


def test_a_training_without_phases_has_the_batches_of_one_phase() -> None:
    one, none = make_config([{"batch_size": 7}], epochs=3), TrainConfig(batch_size=7, epochs=3)
    plans = [Plan(25, config, 1) for config in (one, none)]
    for step in range(1, plans[0].total_steps + 1):
        (epoch, samples), (other_epoch, others) = (plan.batch(step, 0, 1) for plan in plans)
        assert (epoch, samples.tolist()) == (other_epoch, others.tolist())
    assert plans[0].total_steps == plans[1].total_steps == 12


def test_images_have_the_size_of_their_phase(shards: list[Path]) -> None:
    phases = [{"until": 0.4, "image_size": 16}, {"until": 0.7}, {"image_size": 24}]
    loaded = {}
    for workers in (0, 2):
        config = make_config(phases, epochs=3, workers=workers)
        plan = Plan(25, config, 0)
        loaded[workers] = list(load_batches(Dataset(shards, 32, 1 << 20), plan, 1, 0, 1))
        assert [len(batch.samples) for batch in loaded[workers]] == [len(plan.batch(s, 0, 1)[1]) for s in range(1, 10)]
    sizes = {0: 16, 1: 32, 2: 24}
    same = [{key: value for key, value in phase.items() if key != "image_size"} for phase in phases]
    for phase, size in sizes.items():
        plan = Plan(25, make_config(same, epochs=3, workers=0), 0)
        expected = list(load_batches(Dataset(shards, size, 0), plan, 1, 0, 1))
        for batches in loaded.values():
            steps = [step for step, batch in enumerate(batches) if batch.phase == phase]
            assert steps
            for step in steps:
                assert (batches[step].pixels_BSS3 == expected[step].pixels_BSS3).all()


@pytest.mark.parametrize(("tower", "size"), [(VIT, 16), (VIT, 48), (BIG, 64)])
def test_a_model_computes_in_a_phase_as_one_of_that_size(tower: dict[str, Any], size: int) -> None:
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(tower)).train()
    model.prepare_image_sizes([size, model.config.vision_cfg.image_size])
    smaller = CLIP(model.config.with_image_size(size)).train()
    smaller.load_state_dict(fit_positions(model.state_dict(), smaller.state_dict()))
    images = torch.randn(4, 3, size, size)
    found, expected = (each.encode_image(images) for each in (model, smaller))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for features in (found, expected):
        features.square().sum().backward()
    for name, parameter in model.visual.named_parameters():
        gradient = smaller.visual.get_parameter(name).grad
        assert gradient is not None
        if name.endswith("positional_embedding"):
            positions = parameter.detach().requires_grad_()
            resize_image_positions(positions, round((len(gradient) - 1) ** 0.5)).backward(gradient)
            gradient = positions.grad
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert model.state_dict().keys() == smaller.state_dict().keys()
    flops = [count_step_flops(each, image_size=side) for each, side in ((model, size), (smaller, None))]
    assert flops[0] == flops[1] != count_step_flops(model)


def test_texts_are_cut_as_by_a_tokenizer_of_that_length() -> None:
    captions = ["a", "a red boat", "the old house on the hill at night", "one two three four five six seven", ""]
    whole = train_tokenizer(captions, 300, 40)
    tokens, end_id = whole(captions), whole.end_id
    for length in (3, 5, 8, 40, 77):
        shorter = train_tokenizer(captions, 300, length)(captions)
        found = cut_texts(tokens, length, end_id=end_id)
        assert found.shape[1] <= length
        for one, other in zip(pack_texts(found), pack_texts(shorter), strict=True):
            assert one.equal(other)


@pytest.mark.usefixtures("process_state")
@pytest.mark.parametrize(
    ("tower", "options"),
    [
        ("vit", {"patch_dropout": 0.5, "ema": 0.9, "max_bad_steps": 2, "grad_cache": 3, "loss": "sigmoid"}),
        ("resnet", {"ema": 0.9}),
    ],
)
def test_a_job_is_resumed_to_the_same_bits_before_and_after_a_phase_ends(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tower: str, options: dict[str, Any]
) -> None:
    """Four epochs of 25 pairs: phases of 50, 10 and 40 samples."""
    small = {"image_size": 64} if tower == "resnet" else {"image_size": 16, "context_length": 4}
    phases = [{"until": 0.5, "batch_size": 6, **small}, {"until": 0.6, "batch_size": 5}, {"batch_size": 9}]
    whole, before, after = (make_job(name, tower, phase=phases, **options) for name in ("whole", "before", "after"))
    assert main([str(whole)]) == 0
    for job, step in ((before, 9), (after, 10)):
        with monkeypatch.context() as patch:
            before_step(patch, stop_at(step))
            assert main([str(job)]) == 75
        assert main([str(job)]) == 0
        assert outputs_of(job) == outputs_of(whole)
    rows = rows_of(whole)
    assert np.diff([0, *(row["samples_seen"] for row in rows)]).tolist() == [5] * 12 + [8, 7] + [9, 8, 8]
    tokens = [row["tokens"] for row in rows]
    if tower == "vit":
        assert max(tokens[:10]) == 20
        assert min(tokens[10:12]) > 20
    dimensions = json.loads((output_of(whole) / "model.json").read_text())
    assert dimensions["vision_cfg"]["image_size"] == 32


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"until": 0.5}, {"until": 0.4}, {}], "phase 1 ends at 0.5, and phase 2 at 0.4; set more"),
        ([{"until": 0.5}], "the last phase ends at 0.5; it must end at 1"),
        ([{}, {}], "phase 1 ends at 1.0, and phase 2 at 1.0; set more"),
        ([{"until": 0}, {}], "greater than 0"),
    ],
)
def test_phases_out_of_order_are_rejected(phases: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(phases)


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        ([{"until": 0.5, "context_length": 78}, {}], "phase: phase 1: context_length is 78; the model has 77"),
        ([{"until": 0.5, "image_size": 100}, {}], "phase: phase 1: image_size is 100: patch_size: 32 does not divide"),
        ([{"image_size": 128}], "phase: the last phase has another image_size"),
    ],
)
def test_phases_that_do_not_fit_the_model_are_problems(phases: list[dict[str, Any]], problem: str) -> None:
    (found,) = make_config(phases).problems()
    assert found.startswith(problem)


@pytest.mark.usefixtures("process_state")
def test_a_phase_without_a_step_ends_the_job_with_2(make_job: MakeJob) -> None:
    job = make_job("a", phase=[{"until": 0.05}, {}])
    assert main([str(job)]) == 2
    message = json.loads((output_of(job) / "failure.json").read_text())["message"]
    assert message.startswith("phase 1 has no step, since it is shorter than its batch_size of 10 pairs: ")


def test_phases_are_in_the_key_only_where_they_are_set() -> None:
    assert "phase" not in TrainConfig().key_config()
    assert make_config([{"until": 0.5, "image_size": 128}, {}]).key_config()["phase"][0]["image_size"] == 128
