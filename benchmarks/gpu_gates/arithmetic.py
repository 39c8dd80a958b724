"""Gates that compare our own computations: devices, precisions, gradient cache and packed texts."""

import os
from importlib.util import find_spec

import torch

from benchmarks.gpu_gates.inputs import choose_model, make_batch, make_inputs
from benchmarks.gpu_gates.outcomes import judge, not_run
from benchmarks.gpu_gates.sides import make_our_step
from plugins.fp8.hook import CAPABILITY as FP8_CAPABILITY
from training.config import TrainConfig
from training.loop.step import backward, prepare_images
from training.model.packing import pack_texts

DEVICE_STEPS, DEVICE_LIMIT = 20, 1e-4
PRECISION_STEPS, PRECISION_LIMIT = 50, 0.02
GRADIENT_LIMIT, FEATURE_LIMIT = 1e-4, 1e-5


def make_config(setting, model="ViT-B-32", **train):
    """Return the config of a stage; fp32 where it does not say otherwise."""
    threads = 1 if setting.is_toy else len(os.sched_getaffinity(0))
    table = {"model": choose_model(setting, model), "precision": "fp32", "threads": threads, **train}
    return TrainConfig.model_validate(table)


def train_losses(setting, config, device, steps, pairs):
    """Train a new model, and return the loss of each step."""
    dimensions = config.load_dimensions()
    _, step = make_our_step(config, dimensions, device)
    losses = []
    for number in range(1, steps + 1):
        inputs = make_inputs(config, dimensions, pairs, number).map(lambda tensor: tensor.to(device))
        losses.append(step(inputs, config.lr * min(number / 10, 1))[0])
    return torch.stack(losses).tolist()


def compare_curves(found, expected):
    """Return the mean and the greatest relative difference of two curves; NaN where one is not finite."""
    a, b = (torch.tensor(curve, dtype=torch.float64) for curve in (found, expected))
    differences = (a - b).abs() / b.abs()
    return differences.mean().item(), differences.max().item()


def relative_error(found, expected):
    """Return the norm of the difference over that of the expected tensor."""
    return float((found - expected).norm() / expected.norm())


def compare_devices(setting):
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


def why_no_fp8(setting):
    """Return why this machine cannot train in fp8; None if it can."""
    if setting.is_toy or torch.cuda.get_device_capability() < FP8_CAPABILITY:
        return f"needs a card of compute capability {'.'.join(map(str, FP8_CAPABILITY))}"
    return None if find_spec("torchao") is not None else "torchao is not installed"


def compare_fp8(setting):
    """Train 50 steps of ViT-B/32 with blocks in fp8 and in bf16; the mean difference of the losses must be small."""
    if (reason := why_no_fp8(setting)) is not None:
        return not_run(reason)
    return compare_settings(setting, {"fp8": {"precision": "bf16", "fp8": True}, "bf16": {"precision": "bf16"}})


def compare_precisions(setting):
    """Train 50 steps in bf16 and in fp32; the mean difference of the losses must be small."""
    return compare_settings(setting, {name: {"precision": name} for name in ("bf16", "fp32")})


def compare_settings(setting, settings):
    """Train 50 steps with each of two settings."""
    pairs, lr = (8, 1e-3) if setting.is_toy else (256, 1e-4)
    curves = {
        name: train_losses(
            setting, make_config(setting, lr=lr, **one), torch.device(setting.device), PRECISION_STEPS, pairs
        )
        for name, one in settings.items()
    }
    mean, greatest = compare_curves(*curves.values())
    last = [*curves.values()][-1]
    return judge(
        f"losses differ by {mean:.2%} in the mean, {greatest:.2%} at most; the limit of the mean is {PRECISION_LIMIT:.0%}; "
        f"{[*curves][-1]} went from {last[0]:.3f} to {last[-1]:.3f}",
        passed=mean <= PRECISION_LIMIT,
        mean_difference=mean,
        greatest_difference=greatest,
        losses=curves,
    )


def compute_gradients(setting, grad_cache, pairs):
    """Return the gradients of a new model for one batch."""
    config, device = make_config(setting, grad_cache=grad_cache), torch.device(setting.device)
    dimensions = config.load_dimensions()
    model, _ = make_our_step(config, dimensions, device)
    inputs = make_inputs(config, dimensions, pairs, 1).map(lambda tensor: tensor.to(device))
    backward(model, prepare_images(inputs, config), inputs.texts, config, inputs.kept_BK)
    return {name: p.grad.detach().cpu() for name, p in model.named_parameters() if p.grad is not None}


def compare_gradient_cache(setting):
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


def compare_packed_texts(setting):
    """Encode the same texts with and without their padding."""
    config, device = make_config(setting), torch.device(setting.device)
    dimensions = config.load_dimensions()
    model, _ = make_our_step(config, dimensions, device)
    tokens_BL = make_batch(dimensions, 64, 1).tokens_BL
    with torch.no_grad():
        found = model.encode_text(pack_texts(tokens_BL).to(device))
        expected = model.encode_text(tokens_BL.to(device))
    error = relative_error(found, expected)
    return judge(
        f"features differ by {error:.1e}; the limit is {FEATURE_LIMIT:g}",
        passed=error <= FEATURE_LIMIT,
        greatest_difference=error,
    )
