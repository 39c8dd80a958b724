"""The processes of a run that is to be killed: found by a mark in their environment, told apart by their command lines."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "PAIRMILL_CHAOS"
"""Environment variable that every process of a disturbed run inherits."""
ROLES = {
    "training.train": "trainer",
    "training.evaluate": "evaluator",
    "training.torchrun": "torchrun",
    "resource_tracker": "resource tracker",
    "spawn_main": "worker",
    "flows.cli": "main",
}
"""What a command line holds, and what its process is; the first that fits counts, but torchrun names its job too."""


@dataclass(frozen=True)
class Process:
    """A living process of a run."""

    pid: int
    role: str


def alive(token: str) -> list[Process]:
    """All processes, orphans too, that carry `MARK=token`; zombies are not among them."""
    return [
        Process(process.pid, _role(" ".join(process.info["cmdline"] or [])))
        for process in psutil.process_iter(["environ", "cmdline"])
        if (process.info["environ"] or {}).get(MARK) == token
    ]


def _role(text: str) -> str:
    if "training.torchrun" in text:
        return "torchrun"
    return next((role for word, role in ROLES.items() if word in text), Path(text.split(" ")[0]).name or "gone")


def kill(processes: list[Process]) -> None:
    """SIGKILL, the main process first: nobody is left to tidy up after the others."""
    for process in sorted(processes, key=lambda p: p.role != "main"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def ended(token: str, seconds: float) -> list[Process]:
    """The processes that still live after so many seconds; none when all is well."""
    deadline = time.monotonic() + seconds
    while left := alive(token):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []
