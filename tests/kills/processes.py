"""Find the processes of a run by a mark in their environment, and their roles by their command lines."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "PAIRMILL_CHAOS"
"""Environment variable that all processes of a disturbed run inherit; JOB_ENVIRONMENT must name it for jobs."""
ROLES = {
    "training.launch": "launcher",
    "training.torchrun": "torchrun",
    "training.train": "trainer",
    "training.evaluate": "evaluator",
    "resource_tracker": "resource tracker",
    "spawn_main": "worker",
    "flows.cli": "main",
}
"""Roles by a word in the command line; the first match counts."""


@dataclass(frozen=True)
class Process:
    """A living process of a run."""

    pid: int
    role: str


def find_processes(token):
    """Return all processes with `MARK=token` in their environment, also orphans, without zombies."""
    return [
        Process(process.pid, _role(" ".join(process.info["cmdline"] or [])))
        for process in psutil.process_iter(["environ", "cmdline"])
        if (process.info["environ"] or {}).get(MARK) == token
    ]


def _role(text):
    return next((role for word, role in ROLES.items() if word in text), Path(text.split(" ")[0]).name or "gone")


def kill_processes(processes):
    """Send SIGKILL, to the main process first, so that it cannot clean up after the others."""
    for process in sorted(processes, key=lambda p: p.role != "main"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def wait_until_ended(token, seconds):
    """Wait until all processes of a run have ended; return those that are alive after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := find_processes(token):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []
