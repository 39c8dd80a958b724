"""Products in fp8, as torchao emulates them, against plain products of operands that are rounded here."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from dataops.errors import ConfigError
from tests.trainings import (
    VIT,
    before_step,
    make_batch,
    output_of,
    outputs_of,
    rows_of,
    run_training,
    stop_at,
    with_suite,
)
from training.config import TrainConfig
from training.model.clip import CLIP
from training.model_config import ModelConfig
from training.sharding import copy_whole, place_model

pytestmark = [pytest.mark.usefixtures("process_state"), pytest.mark.filterwarnings("ignore")]  # torchao's own


class RoundedLinear(torch.autograd.Function):
    """F.linear whose operands are rounded to fp8, with a scale for each tensor, forward and backward."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return round_to_fp8(x) @ round_to_fp8(weight).T + bias

    @staticmethod
    def backward(ctx, *gradients):
        x, weight = ctx.saved_tensors
        by_y = round_to_fp8(gradients[0], torch.float8_e5m2).flatten(0, -2)
        by_weight = by_y.T @ round_to_fp8(x).flatten(0, -2)
        return (by_y @ round_to_fp8(weight)).view_as(x), by_weight, gradients[0].flatten(0, -2).sum(0)


def round_to_fp8(x, dtype=torch.float8_e4m3fn):
    scale = torch.finfo(dtype).max / x.abs().max().double()
    return ((x.double() * scale).to(dtype).double() / scale).float()


def build(*, fp8):
    torch.manual_seed(0)
    model = CLIP(ModelConfig.model_validate(VIT)).train()
    place_model(model, torch.device("cpu"), TrainConfig(fp8=fp8))
    return model


def compute(model):
    """Return the features of a batch, and the gradient of each parameter."""
    images_BD, texts_BD, *_ = model(*make_batch(5, None))
    (images_BD.square().sum() + texts_BD.square().sum()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"images": images_BD.detach(), "texts": texts_BD.detach(), **gradients}


def errors(found, expected):
    assert found.keys() == expected.keys()
    return [float((found[name] - tensor).norm() / tensor.norm()) for name, tensor in expected.items()]


def test_all_products_of_blocks_are_in_fp8_and_nothing_else(monkeypatch):
    """In a vision transformer and a text tower, F.linear computes the products of blocks only."""
    plain, model = build(fp8=False), build(fp8=True)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    found, exact = compute(model), compute(plain)
    plain.zero_grad()
    monkeypatch.setattr(F, "linear", RoundedLinear.apply)
    expected = compute(plain)
    assert max(errors(found, expected)) < 1e-3
    assert 0.01 < max(errors(found, exact)) < 0.3


def test_evaluations_compute_as_the_finished_model_does():
    model = build(fp8=True)
    whole = copy_whole(model).eval()
    plain = CLIP(model.config).eval()
    plain.load_state_dict(model.state_dict())
    images = make_batch(5, None)[0]
    assert whole.encode_image(images).equal(plain.encode_image(images))
    assert not model.encode_image(images).equal(plain.encode_image(images))
    assert whole.visual.get_parameter("proj").data_ptr() == model.visual.get_parameter("proj").data_ptr()


def test_a_job_in_fp8_is_resumed_to_the_same_bits_and_loads_everywhere(make_job, suite, monkeypatch):
    settings = {"epochs": 2, "precision": "bf16", "lr": 1e-4, "evaluate_every": 2}
    settings["grad_checkpointing"] = True
    plain, whole, cut = (
        with_suite(make_job(name, fp8=name != "plain", **settings), suite) for name in ("plain", "whole", "cut")
    )
    assert run_training(plain) == run_training(whole) == 0
    before_step(monkeypatch, stop_at(3))
    assert [run_training(cut) for _ in range(2)] == [75, 0]
    assert outputs_of(cut) == outputs_of(whole) != outputs_of(plain)
    losses = [[row["loss"] for row in rows_of(job)] for job in (whole, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.06)
    weights, expected = (load_file(output_of(job) / "model.safetensors") for job in (whole, plain))
    assert {n: (t.shape, t.dtype) for n, t in weights.items()} == {n: (t.shape, t.dtype) for n, t in expected.items()}
    models = [json.loads((output_of(job) / "model.json").read_text()) for job in (whole, plain)]
    assert models[0].keys() == models[1].keys()


def test_a_card_without_fp8_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    model = CLIP(ModelConfig.model_validate(VIT))
    with pytest.raises(ConfigError, match=r"fp8: NVIDIA A100 has compute capability 8\.0, and fp8 needs 8\.9"):
        place_model(model, torch.device("cuda"), TrainConfig(fp8=True))
