"""The gate that a step makes the host wait for the device at most once."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.gpu_gates.arithmetic import make_config
from benchmarks.gpu_gates.inputs import load_dimensions, make_batch, make_inputs
from benchmarks.gpu_gates.outcomes import Outcome, Setting, judge
from benchmarks.gpu_gates.sides import make_our_step
from tests.host_reads import counting, counting_on_card
from training.data.loader import Batch
from training.loop.inputs import upload_batches
from training.loop.step_recorder import DelayedValues

STEPS, ALLOWED = 5, 1
SETTINGS = {"patch_dropout": 0.5, "max_grad_norm": 1.0, "label_smoothing": 0.1, "augment": {"flip": 0.5, "hue": 0.1}}
SETTINGS |= {"ema": 0.999, "max_bad_steps": 2, "bad_loss": 9, "layer_decay": 0.9}


def count_syncs(setting: Setting) -> Outcome:
    """Count the waits of some steps with uploads and delayed values, as the trainer takes them, and list their lines."""
    device, pairs = torch.device(setting.device), 8 if setting.is_toy else 64
    config = make_config(setting, precision="fp32" if setting.is_toy else "bf16", **SETTINGS)
    dimensions = load_dimensions(config)
    _, step = make_our_step(config, dimensions, device)

    def batches() -> Iterator[Batch]:
        for number in range(1, STEPS + 2):
            batch = make_batch(dimensions, pairs, number)
            yield replace(batch, inputs=make_inputs(config, dimensions, pairs, number, pin=not setting.is_toy))

    uploaded = upload_batches(list(batches()), device)
    step(next(uploaded).inputs, 1e-4)  # the first step also makes constants and kernels
    previous = None
    with counting() if setting.is_toy else counting_on_card() as found:
        for batch in uploaded:
            values = DelayedValues(step(batch.inputs, 1e-4))
            if previous is not None:
                previous.read()
            previous = values
    return report_syncs(found, STEPS)


def report_syncs(found: list[str], steps: int) -> Outcome:
    """Return the outcome for the lines that waited in a number of steps."""
    lines = Counter(found)
    listed = ", ".join(f"{line} {count} times" for line, count in lines.most_common()) or "none"
    return judge(
        f"{len(found) / steps:.2g} syncs a step; the limit is {ALLOWED} ({listed})",
        passed=len(found) <= ALLOWED * steps,
        syncs_per_step=len(found) / steps,
        lines=dict(lines),
    )
