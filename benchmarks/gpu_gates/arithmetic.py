"""Gates that compare our own computations: devices, precisions, gradient cache and packed texts."""

import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_gates.inputs import choose_model, load_dimensions, make_batch, make_inputs
from benchmarks.gpu_gates.outcomes import Outcome, Setting, judge, not_run
from benchmarks.gpu_gates.sides import make_our_step
from plugins.fp8.hook import CAPABILITY as FP8_CAPABILITY
from training.config import TrainConfig
from training.loop.step import backward, prepare_images
from training.model.packing import pack_texts

DEVICE_STEPS, DEVICE_LIMIT = 20, 1e-4
PRECISION_STEPS, PRECISION_LIMIT = 50, 0.02
GRADIENT_LIMIT, FEATURE_LIMIT = 1e-4, 1e-5


def make_config(setting: Setting, model: str = "ViT-B-32", **train: Any) -> TrainConfig:
    """Return the config of a stage; fp32 where it does not say otherwise."""
    threads = 1 if setting.is_toy else len(os.sched_getaffinity(0))
    table = {"model": choose_model(setting, model), "precision": "fp32", "threads": threads, **train}
    return TrainConfig.model_validate(table)


def train_losses(setting: Setting, config: TrainConfig, device: torch.device, steps: int, pairs: int) -> list[float]:
    """Train a new model, and return the loss of each step."""
    dimensions = load_dimensions(config)
    _, step = make_our_step(config, dimensions, device)
    losses = []
    for number in range(1, steps + 1):
        inputs = make_inputs(setting, config, dimensions, pairs, number).map(lambda tensor: tensor.to(device))
        losses.append(step(inputs, config.lr * min(number / 10, 1))[0])
    return torch.stack(losses).tolist()


def compare_curves(found: list[float], expected: list[float]) -> tuple[float, float]:
    """Return the mean and the greatest relative difference of two curves; NaN where one is not finite."""
    a, b = (torch.tensor(curve, dtype=torch.float64) for curve in (found, expected))
    differences = (a - b).abs() / b.abs()
    return differences.mean().item(), differences.max().item()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of the expected tensor."""
    return float((found - expected).norm() / expected.norm())


def compare_devices(setting: Setting) -> Outcome:
    """Train 20 steps in fp32 on the CPU and on the card; the losses of each step must agree."""
    if setting.is_toy:
        return not_run("needs a card")
    config = make_config(setting, lr=1e-4)
    curves = [train_losses(setting, config, torch.device(name), DEVICE_STEPS, pairs=16) for name in ("cuda", "cpu")]
    _, greatest = compare_curves(*curves)
    return judge(
        f"losses differ by {greatest:.1e} at most; the limit is {DEVICE_LIMIT:g}",
        passed=greatest <= DEVICE_LIMIT,
        greatest_difference=greatest,
        losses=dict(zip(("card", "cpu"), curves, strict=True)),
    )


def compare_precisions(setting: Setting) -> Outcome:
    """Train 50 steps in bf16 and in fp32; the mean difference of the losses must be small."""
    device, pairs = torch.device(setting.device), 8 if setting.is_toy else 256
    curves = {
        precision: train_losses(
            setting,
            make_config(setting, precision=precision, lr=1e-3 if setting.is_toy else 1e-4),
            device,
            PRECISION_STEPS,
            pairs,
        )
        for precision in ("bf16", "fp32")
    }
    mean, greatest = compare_curves(curves["bf16"], curves["fp32"])
    return judge(
        f"losses differ by {mean:.2%} in the mean, {greatest:.2%} at most; the limit of the mean is {PRECISION_LIMIT:.0%}; "
        f"fp32 went from {curves['fp32'][0]:.3f} to {curves['fp32'][-1]:.3f}",
        passed=mean <= PRECISION_LIMIT,
        mean_difference=mean,
        greatest_difference=greatest,
        losses=curves,
    )


def why_no_fp8(setting: Setting) -> str | None:
    """Return why this machine cannot train in fp8; None if it can."""
    if setting.is_toy or torch.cuda.get_device_capability() < FP8_CAPABILITY:
        return f"needs a card of compute capability {'.'.join(map(str, FP8_CAPABILITY))}"
    return None if find_spec("torchao") is not None else "torchao is not installed"


def compare_fp8(setting: Setting) -> Outcome:
    """Train 50 steps of ViT-B/32 with blocks in fp8 and in bf16; the mean difference of the losses must be small."""
    if (reason := why_no_fp8(setting)) is not None:
        return not_run(reason)
    configs = [make_config(setting, precision="bf16", lr=1e-4, fp8=fp8) for fp8 in (True, False)]
    found, expected = (
        train_losses(setting, one, torch.device(setting.device), PRECISION_STEPS, 256) for one in configs
    )
    mean, greatest = compare_curves(found, expected)
    return judge(
        f"losses differ by {mean:.2%} in the mean, {greatest:.2%} at most; the limit of the mean is {PRECISION_LIMIT:.0%}",
        passed=mean <= PRECISION_LIMIT,
        mean_difference=mean,
        greatest_difference=greatest,
        losses={"fp8": found, "bf16": expected},
    )


def compute_gradients(setting: Setting, grad_cache: int | None, pairs: int) -> dict[str, Tensor]:
    """Return the gradients of a new model for one batch."""
    config, device = make_config(setting, grad_cache=grad_cache), torch.device(setting.device)
    dimensions = load_dimensions(config)
    model, _ = make_our_step(config, dimensions, device)
    inputs = make_inputs(setting, config, dimensions, pairs, 1).map(lambda tensor: tensor.to(device))
    backward(model, prepare_images(inputs, config), inputs.texts, config, inputs.kept_BK)
    return {name: p.grad.detach().cpu() for name, p in model.named_parameters() if p.grad is not None}


def compare_gradient_cache(setting: Setting) -> Outcome:
    """Compute the gradients of a batch with and without the gradient cache, whose last part is smaller."""
    pairs, cached = (18, 4) if setting.is_toy else (258, 32)
    found, expected = (compute_gradients(setting, size, pairs) for size in (cached, None))
    errors = {name: relative_error(found[name], gradient) for name, gradient in expected.items()}
    worst = max(errors, key=errors.__getitem__)
    return judge(
        f"gradients differ by {errors[worst]:.1e} at most ({worst}); the limit is {GRADIENT_LIMIT:g}",
        passed=found.keys() == expected.keys() and all(error <= GRADIENT_LIMIT for error in errors.values()),
        greatest_difference=errors[worst],
    )


def compare_packed_texts(setting: Setting) -> Outcome:
    """Encode the same texts with and without their padding."""
    config, device = make_config(setting), torch.device(setting.device)
    dimensions = load_dimensions(config)
    model, _ = make_our_step(config, dimensions, device)
    tokens_BL = make_batch(setting, dimensions, 64, 1).tokens_BL
    assert tokens_BL is not None
    with torch.no_grad():
        found = model.encode_text(pack_texts(tokens_BL).to(device))
        expected = model.encode_text(tokens_BL.to(device))
    error = relative_error(found, expected)
    return judge(
        f"features differ by {error:.1e}; the limit is {FEATURE_LIMIT:g}",
        passed=error <= FEATURE_LIMIT,
        greatest_difference=error,
    )
