"""Timings of steps: ours as training.train takes them, and open_clip's, by CUDA events."""

from dataclasses import replace
from importlib.util import find_spec
from itertools import cycle, islice
from statistics import median

import torch

from benchmarks.gpu_gates.arithmetic import make_config, why_no_fp8
from benchmarks.gpu_gates.environment import time_call
from benchmarks.gpu_gates.inputs import make_batch, make_inputs
from benchmarks.gpu_gates.outcomes import measured, not_run
from benchmarks.gpu_gates.sides import make_open_clip_model, make_open_clip_step, make_our_step
from training.compiler import prepare_compiler
from training.loop.flops import count_step_flops, find_peak
from training.loop.inputs import upload_batches
from training.loop.step import normalize_pixels
from training.loop.step_recorder import DelayedValues
from training.model.clip import CLIP
from training.train import set_up_torch

PAIRS = {"ViT-B-32": 1024, "ViT-B-16": 512, "ViT-L-14": 128, "RN50": 512}
"""Pairs of a step on a card of MEMORY."""
MEMORY = 75e9
DISTINCT_BATCHES = 3
LR = 1e-4


def measure_steps(setting, model, variant):
    """Take ten steps to warm up and three times twenty, and time these.

    Args:
        variant: `ours` or `open_clip`, followed by what differs from the default.
    """
    is_ours, is_compiled = variant.startswith("ours"), variant.endswith("compiled")
    if not is_ours and find_spec("open_clip") is None:
        return not_run("open_clip_torch is not installed")
    if setting.is_toy and (variant not in ("ours", "open_clip") or model in ("ViT-B-16", "ViT-L-14")):
        return not_run("needs a card")
    is_fp8 = "fp8" in variant
    if is_fp8 and (reason := why_no_fp8(setting)) is not None:
        return not_run(reason)
    device, pairs = torch.device(setting.device), choose_pairs(setting, model)
    settings = {"deterministic": "deterministic" in variant, "compile": is_ours and is_compiled}
    settings["fp8"] = is_fp8
    config = make_config(setting, model, precision="fp32" if setting.is_toy else "bf16", **settings)
    set_up_torch(config, device)
    if is_compiled:
        prepare_compiler(device.type, [setting.folder / "compiled"])
    dimensions = config.load_dimensions()
    batches = [
        replace(made, inputs=make_inputs(config, dimensions, pairs, made.step, pin=not setting.is_toy))
        for made in (make_batch(dimensions, pairs, step) for step in range(1, 1 + DISTINCT_BATCHES))
    ]
    take = (
        take_our_steps(config, dimensions, device, batches)
        if is_ours
        else take_peer_steps(config, dimensions, device, batches, is_compiled)
    )
    warmup, times, steps = (1, 2, 2) if setting.is_toy else (10, 3, 20)
    take(warmup)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [time_call(lambda: take(steps), device, 1, 0) / steps for _ in range(times)]
    flops = count_flops(dimensions, [batch.inputs for batch in batches], is_padded=not is_ours)
    peak = find_peak(device, config.precision)
    rate = pairs / median(seconds)
    return measured(
        f"{rate:,.0f} samples/s with {pairs} pairs a step",
        model=model,
        variant=variant,
        pairs=pairs,
        samples_per_second=rate,
        seconds_per_step=seconds,
        flops_per_step=flops,
        mfu=None if peak is None else flops / median(seconds) / peak,
        peak_gb=torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
    )


def choose_pairs(setting, model):
    """Return the pairs of a step, halved until they suit the card's memory."""
    if setting.is_toy:
        return 8
    pairs, memory = PAIRS[model], torch.cuda.get_device_properties(0).total_memory
    while memory < MEMORY and pairs > 8:
        pairs, memory = pairs // 2, memory * 2
    return pairs


def take_our_steps(config, dimensions, device, batches):
    """Return a function that takes steps of ours: images come from pinned memory, values are read one step late."""
    _, step = make_our_step(config, dimensions, device)
    uploaded = upload_batches(cycle(batches), device)

    def take(steps):
        previous = None
        for batch in islice(uploaded, steps):
            values = DelayedValues(step(batch.inputs, LR))
            if previous is not None:
                previous.read()
            previous = values

    return take


def take_peer_steps(config, dimensions, device, batches, is_compiled):
    """Return a function that takes steps of open_clip, whose normalised images are in the card's memory."""
    model = make_open_clip_model(dimensions).to(device).train()
    step = make_open_clip_step(torch.compile(model) if is_compiled else model, config, device)
    inputs = [
        (normalize_pixels(torch.from_numpy(batch.pixels_BSS3).to(device)).contiguous(), batch.tokens_BL.to(device))
        for batch in batches
        if batch.tokens_BL is not None
    ]

    def take(steps):
        for images, tokens in islice(cycle(inputs), steps):
            step(images, tokens, LR)

    return take


def count_flops(dimensions, inputs, *, is_padded):
    """Return the mean operations of a step; padded texts have the length of the context."""
    with torch.device("meta"):
        counted, total = count_step_flops(CLIP(dimensions)), 0.0
    length = dimensions.text_cfg.context_length
    for one in inputs:
        pairs = len(one.pixels_BSS3)
        sizes = (pairs * length, pairs * length**2) if is_padded else (one.tokens, one.padded)
        total += counted.total(pairs, *sizes)
    return total / len(inputs)
