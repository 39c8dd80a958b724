"""What the machine is, and what it reaches at its best: the figures that the timings are read against."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_gates.outcomes import measured, not_run
from training.loop.flops import find_peak

PACKAGES = ("torch", "numpy", "Pillow", "triton", "open_clip_torch")
COPIED_BYTES = 512 * 1024**2
SHAPES = {"ViT-B-32": (64, 12, 50, 64), "ViT-B-16": (64, 12, 197, 64), "text": (64, 8, 32, 64)}
"""Batch, heads, length and width of a head of the attention of some towers."""


def find_device(setting):
    """Return which device there is, or that the requested one is missing."""
    if setting.device == "cuda" and not torch.cuda.is_available():
        return not_run(f"torch {torch.__version__} sees no CUDA device")
    return measured(torch.cuda.get_device_name() if setting.device == "cuda" else platform.processor())


def describe_environment(setting):
    """Measure matrix products, copies to the card and the kernels of attention."""
    device = torch.device(setting.device)
    side = 256 if setting.is_toy else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = 2 * side**3 / time_call(lambda: a @ b, device) / 1e12
    figures = {
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "versions": {name: found for name in PACKAGES if (found := find_version(name))},
        "bf16_tflops": product,
    }
    if device.type == "cuda":
        figures |= describe_card(device) | measure_copies(device) | {"attention_ms": measure_attention(device)}
    name = figures.get("card", "CPU")
    return measured(f"{name}: {product:.3g} TFLOP/s in bf16 products of {side} x {side}", **figures)


def find_version(package):
    """Return the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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


def measure_copies(device):
    """Return the GB/s of copies to the card, from pageable and from pinned memory."""
    pageable, target = (
        torch.ones(COPIED_BYTES, dtype=torch.uint8),
        torch.empty(COPIED_BYTES, dtype=torch.uint8, device=device),
    )
    pinned = pageable.pin_memory()
    return {
        f"{name}_gb_per_second": COPIED_BYTES
        / time_call(lambda s=source: target.copy_(s, non_blocking=True), device)
        / 1e9
        for name, source in (("pageable", pageable), ("pinned", pinned))
    }


def measure_attention(device):
    """Return the milliseconds of each kernel of attention, forward and backward; None where it does not run."""
    found = {}
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    for name, shape in SHAPES.items():
        q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

        def attend(q=q, k=k, v=v, causal=name == "text"):
            F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()

        found[name] = {}
        for backend in backends:
            try:
                with sdpa_kernel(backend):
                    found[name][backend.name] = 1000 * time_call(attend, device)
            except RuntimeError:
                found[name][backend.name] = None
    return found
