"""What a stage returns, and where and at what size it runs. Imports no torch."""

import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASS, FAIL, MEASURED, NOT_RUN = "PASS", "FAIL", "MEASURED", "NOT RUN"
PRELOADED = [
    "benchmarks.gpu_gates.catalogue",
    "training.train",
    "training.evaluation.class_weights",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "open_clip",
]
"""Modules that several stages import, if they are installed: torch's in the first step of an optimizer."""


@dataclass(frozen=True)
class Outcome:
    """The result of a stage."""

    status: str
    """PASS or FAIL of a gate, MEASURED of a timing, or NOT RUN."""
    message: str = ""
    """What was found, or the reason why the stage did not run."""
    figures: dict[str, Any] = field(default_factory=dict)


def judge(message, *, passed, **figures):
    """Return the outcome of a gate."""
    return Outcome(PASS if passed else FAIL, message, figures)


def measured(message="", **figures):
    """Return the outcome of a timing."""
    return Outcome(MEASURED, message, figures)


def not_run(reason):
    """Return the outcome of a stage that this machine cannot run."""
    return Outcome(NOT_RUN, reason)


@dataclass(frozen=True)
class Setting:
    """Where and at what size the stages run."""

    device: str
    """cuda, or cpu: toy sizes."""
    folder: Path
    """Folder for shards and jobs, which the stages share."""

    @property
    def is_toy(self):
        """True on a CPU."""
        return self.device == "cpu"

    def processes(self):
        """Return how processes start: anew on a card, whose driver does not survive a fork.

        On a CPU they are forked from one that has imported torch, since imports would be most of the CPU time.
        """
        if not self.is_toy:
            return multiprocessing.get_context("spawn")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        return context

    def job_processes(self):
        """Return how a stage starts the processes of a job; a fork server would import torch once more for each stage."""
        return multiprocessing.get_context("fork" if self.is_toy else "spawn")
