"""The stages in their order: cheap gates and the timings that matter most, the other gates, then the other timings."""

import os
import sys
import traceback
from dataclasses import dataclass, replace
from importlib import import_module

from benchmarks.gpu_gates.outcomes import FAIL, Outcome

HERE = "benchmarks.gpu_gates"


@dataclass(frozen=True)
class Stage:
    """A function of a Setting that a process of its own calls."""

    name: str
    function: str
    """MODULE:FUNCTION, imported in that process only."""
    seconds: float
    """Deadline."""
    arguments: tuple[object, ...] = ()
    is_gate: bool = True


def run_stage(stage, setting, results):
    """Run a stage in this process and send its outcome; an exception is a failure."""
    before = sum(os.times()[:4])
    os.setsid()  # the deadline ends the group, with whatever the stage started
    try:
        if setting.is_toy:
            import_module("torch").set_num_threads(1)  # more would only wait for each other
        module, _, function = stage.function.partition(":")
        found = getattr(import_module(module), function)(setting, *stage.arguments)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        found = Outcome(FAIL, f"{type(error).__name__}: {error}")
    cpu_seconds = round(sum(os.times()[:4]) - before, 2)  # with its processes that have ended
    results.send(replace(found, figures={**found.figures, "cpu_seconds": cpu_seconds}))


MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "RN50")
STEP_SECONDS = {
    "ours": 40,
    "open_clip": 40,
    "ours, deterministic": 40,
    "ours, compiled": 110,
    "open_clip, compiled": 110,
    "ours, fp8, compiled": 110,
}
"""Deadline of the timing of a model's steps, by what is timed."""


def time_steps(model, variant):
    """Return the timing of a model's steps."""
    seconds, name = STEP_SECONDS[variant], f"{model}, {variant}"
    return Stage(name, f"{HERE}.steps:measure_steps", seconds, (model, variant), is_gate=False)


FIRST = (
    Stage("environment", f"{HERE}.environment:describe_environment", 30, is_gate=False),
    Stage("syncs in a step", f"{HERE}.syncs:count_syncs", 25),
    Stage("gradient cache = plain", f"{HERE}.arithmetic:compare_gradient_cache", 25),
    Stage("packed = padded", f"{HERE}.arithmetic:compare_packed_texts", 25),
    Stage("losses = open_clip's", f"{HERE}.peers:compare_losses", 25),
    Stage("zero-shot = open_clip's", f"{HERE}.peers:compare_zero_shot", 25),
    time_steps("ViT-B-16", "ours, compiled"),
    time_steps("ViT-B-32", "ours, compiled"),
    Stage("training job", f"{HERE}.loading:measure_job", 70, is_gate=False),
    Stage("loader", f"{HERE}.loading:measure_loader", 40, is_gate=False),
)
"""What decides most. All their deadlines together are within the time of a run, so that each of them is reached."""
REST = (
    Stage("CPU = card, 20 fp32 steps", f"{HERE}.arithmetic:compare_devices", 60),
    Stage("bf16 = fp32, 50 steps", f"{HERE}.arithmetic:compare_precisions", 60),
    Stage("fp8 = bf16, 50 steps", f"{HERE}.arithmetic:compare_fp8", 60),
    Stage("stopped and killed = undisturbed", f"{HERE}.jobs:compare_resumed_job", 120),
    Stage("out of memory", f"{HERE}.jobs:follow_memory_remedy", 60),
    Stage("two ranks = one process", f"{HERE}.jobs:compare_two_ranks", 60),
    Stage("syncs in two ranks of a ResNet", f"{HERE}.syncs:count_syncs_of_ranks", 60),
    Stage("sharded, resumed = undisturbed", f"{HERE}.jobs:compare_two_ranks", 90, ("full",)),
    Stage("checkpoint within the grace", f"{HERE}.jobs:measure_grace", 60),
    *(
        time_steps(model, variant)
        for variants in (("ours", "open_clip"), tuple(STEP_SECONDS)[2:])
        for model in MODELS
        for variant in variants
    ),
)
STAGES = (*FIRST, *(stage for stage in REST if stage not in FIRST))
GATES = tuple(stage for stage in STAGES if stage.is_gate)
