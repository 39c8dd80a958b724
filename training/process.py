"""Processes: what tells one from another of the same number, and how a job follows the one that asked for it.

Needs neither torch nor, but for the faster way, a /proc.
"""

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

RETRYABLE = 75
ELSEWHERE = "PAIRMILL_ELSEWHERE"
"""Set where a job runs on another machine than the one that asked for it, whose pids mean nothing here."""
_PROC = Path("/proc")


def process_fingerprint(pid: int) -> str | None:
    """What tells this process from any other that ever had its pid; None when it is dead or a zombie.

    Source: proc_pid_stat(5): fields 3, 20 and 22, state, threads, start time in clock ticks since boot.
    """
    if not (_PROC / "self/stat").exists():
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        line = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        status, _, started = line.partition(" ")
        return started.strip() if started and not status.startswith("Z") else None
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may itself hold spaces and parentheses
    # The main thread of a killed process is a zombie before its other threads have let go of the sockets.
    if fields[0] in "ZX" and int(fields[17]) <= 1:
        return None
    return f"{_boot()}:{fields[19]}"


def pid_namespace() -> str:
    """Names the table of processes that pids of this process belong to: a machine since its boot, or a container on it.

    Two places of one name are one place, whatever the host's name is; where there is no /proc it is the host's name.
    Source: proc_sys_kernel(5): random/boot_id; namespaces(7): /proc/self/ns/pid.
    """
    try:
        return f"{_boot()}:{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def exit_with_parent(pid: int, poll_seconds: float | None = None) -> None:
    """End this process at once, with 75, when the process `pid`, for which it works, is gone.

    A pipeline that is killed cannot stop its workers and trainers, and its rerun must not meet those that nobody waits
    for. `pid` need not be the direct parent: between a pipeline and its trainers stands torchrun. Of a pipeline on another
    machine (ELSEWHERE) its trainers there tell: those that they met end with them.

    Args:
        poll_seconds: time between two looks; by default 0.25 s, and 1 s where each look starts a `ps`.
    """
    if os.environ.get(ELSEWHERE):
        return
    started = process_fingerprint(pid)
    pause = poll_seconds or (0.25 if (_PROC / "self/stat").exists() else 1.0)

    def watch() -> None:
        while started is not None and process_fingerprint(pid) == started:
            time.sleep(pause)
        os._exit(RETRYABLE)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
