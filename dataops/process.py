"""Processes: a fingerprint that survives the reuse of a pid, the end of a parent, cores and memory. Imports no torch."""

import os
import platform
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

RETRYABLE = 75
ELSEWHERE = "PAIRMILL_ELSEWHERE"
"""Environment variable of a job that runs on another machine than its parent, whose pids mean nothing here."""
PROC, SYSTEM = Path("/proc"), Path("/")


def process_fingerprint(pid: int, proc: Path = PROC) -> str | None:
    """Return what identifies a process among all that ever had its pid; None if it is dead or a zombie.

    Args:
        proc: where the system has its table of processes; without it, `ps` is asked.

    Source: proc_pid_stat(5): fields 3, 20 and 22, state, threads, start time in clock ticks since boot.
    """
    if not (proc / "self/stat").exists():
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        line = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        status, _, started = line.partition(" ")
        return started.strip() if started and not status.startswith("Z") else None
    try:
        text = (proc / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the command's name may itself hold spaces and parentheses
    # The main thread of a killed process is a zombie before its other threads have closed their sockets.
    if fields[0] in "ZX" and int(fields[17]) <= 1:
        return None
    return f"{_boot_id()}:{fields[19]}"


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended, in seconds."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def processor_name() -> str:
    """Return the name of this machine's processor, as its system has it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Return whether an NVIDIA driver offers a GPU to this process, or to a container around it."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and any(devices.glob("nvidia[0-9]*"))


@cache
def find_precision(*, on_gpu: bool) -> Literal["bf16", "fp16", "fp32"]:
    """Return the precision in which this machine's GPU, or else its processor, computes fastest.

    bf16 where there are units for it, on GPUs from the compute capability 8.0 on (all are, if
    nvidia-smi is not there); older ones have units for fp16, other processors for fp32. Source:
    CUDA C++ Programming Guide, table of arithmetic instructions.
    """
    if on_gpu:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
            return "fp16" if min(map(float, listed)) < 8 else "bf16"
        return "bf16"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("flags"):
                return "bf16" if {"avx512_bf16", "amx_bf16"} & {*line.split()} else "fp32"
    return "fp32"


def pid_namespace() -> str:
    """Return the name of this process's pid namespace: a machine since its boot, or a container on it.

    Equal names mean the same namespace, whatever the host is called. Without /proc it is the host's name.
    Source: proc_sys_kernel(5): random/boot_id; namespaces(7): /proc/self/ns/pid.
    """
    try:
        return f"{_boot_id()}:{(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def exit_with_parent(pid: int, poll_seconds: float | None = None, proc: Path = PROC) -> None:
    """End this process at once, with exit code 75, when the process `pid` that it works for has ended.

    A pipeline that is killed cannot stop its workers and trainers, and its rerun must not meet the old ones. `pid` need
    not be the direct parent: torchrun stands between a pipeline and its trainers. On another machine than the
    pipeline's (ELSEWHERE) this does nothing: the trainers there end with the ranks that they are joined to.

    Args:
        poll_seconds: time between two checks; by default 0.25 s, or 1 s where each check starts a `ps`.
    """
    if os.environ.get(ELSEWHERE):
        return
    started = process_fingerprint(pid, proc)
    pause = poll_seconds or (0.25 if (proc / "self/stat").exists() else 1.0)

    def watch() -> None:
        while started is not None and process_fingerprint(pid, proc) == started:
            time.sleep(pause)
        os._exit(RETRYABLE)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def count_cores(root: Path = SYSTEM) -> int:
    """Return the number of cores that this process may use: its share of them if it has ranks beside it.

    Args:
        root: folder of `proc` and `sys`.
    """
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([cores, *_read_quotas(root)]) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM, in bytes; without /proc, the most that it was.

    Source: proc_pid_statm(5), getrusage(2), whose unit is a byte on macOS.
    """
    try:
        pages = int((PROC / "self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _read_quotas(root: Path) -> list[float]:
    """Return the limits of CPU time, in cores, of this process's control groups and of those above them.

    Source: cgroups(7); cpu.max of version 2, and cpu.cfs_quota_us and cpu.cfs_period_us of version 1 (Linux
    documentation, cgroup-v2.rst and sched-bwc.rst).
    """
    quotas, top = [], root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = top / controllers / name.strip("/")
            for folder in (group, *group.parents):
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                with suppress(OSError, ValueError):
                    quota, period = " ".join((folder / file).read_text() for file in files).split()
                    if quota not in ("max", "-1"):
                        quotas.append(int(quota) / int(period))
                if folder == top:
                    break
    return quotas


def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()
