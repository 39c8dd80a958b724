"""What the machine is, and what it reaches at its best: the figures that the timings are read against."""

import os
import platform
import time
from importlib.metadata import distributions

import torch

from benchmarks.gpu_gates.outcomes import measured, not_run
from training.loop.flops import find_peak

PACKAGES = ("torch", "numpy", "pillow", "triton", "open_clip_torch")


def find_device(setting):
    """Return which device there is, or that the requested one is missing."""
    if setting.device == "cuda" and not torch.cuda.is_available():
        return not_run(f"torch {torch.__version__} sees no CUDA device")
    return measured(torch.cuda.get_device_name() if setting.device == "cuda" else platform.processor())


def describe_environment(setting):
    """Describe the machine, and measure matrix products."""
    device = torch.device(setting.device)
    side = 256 if setting.is_toy else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = 2 * side**3 / time_call(lambda: a @ b, device) / 1e12
    figures = {
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "versions": {one.name: one.version for one in distributions() if one.name in PACKAGES},
        "bf16_tflops": product,
    }
    if device.type == "cuda":
        figures |= describe_card(device)
    name = figures.get("card", "CPU")
    return measured(f"{name}: {product:.3g} TFLOP/s in bf16 products of {side} x {side}", **figures)


def time_call(function, device, times=10, warmup=3):
    """Return the seconds of a call, by CUDA events on a card; the first calls do not count."""
    for _ in range(warmup):
        function()
    is_card = device.type == "cuda"
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if is_card else (None, None)
    started = time.perf_counter()
    if begin is not None:
        begin.record()
    for _ in range(times):
        function()
    if begin is None or end is None:
        return (time.perf_counter() - started) / times
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def describe_card(device):
    """Return the card, its software and its peak figures."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "card": properties.name,
        "cards": torch.cuda.device_count(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_gb": properties.total_memory / 1e9,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "peak_flops": {precision: find_peak(device, precision) for precision in ("bf16", "fp32")},
    }
