"""The processes of a run that is to be killed: found by a mark in their environment, told apart by their command lines."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

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
    wanted = os.fsencode(f"{MARK}={token}")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(Process(int(entry.name), _role((entry / "cmdline").read_bytes())))
    return found


def _role(command: bytes) -> str:
    text = command.replace(b"\0", b" ").decode(errors="replace")
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
