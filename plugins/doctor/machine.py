"""Checks of this machine for `pairmill doctor`: disk, memory, GPU, and whether the installed torch can use the GPU."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import psutil

from dataops.errors import ConfigError
from plugins.doctor.check import Check
from training.compiler import REMEDY, prepare_compiler

GIB = 2**30
GROWTH: Mapping[str, tuple[float, str]] = {
    "services/prefect/prefect.db*": (
        2,
        "pairmill down; delete services/prefect/prefect.db*: the store has all runs, and `pairmill deploy` the schedules",
    ),
    "services/mlflow/mlflow.db*": (2, "delete runs that you no longer compare in MLflow, then run `mlflow gc`"),
    "services/mlflow/artifacts/**/*": (20, "pairmill gc --keep-versions 5"),
    "services/*/log*": (0.5, "pairmill up"),
}
"""GB from which on something in a home is larger than a year of nights makes it, and what to do, by its files."""
DISK_GIB = 5
"""Free disk space for shards and checkpoints, in GiB; with less, a run may fail half-way."""
FULL_GIB = 0.5
"""Free disk space with less of which not even the servers and the records of a run work, in GiB."""
MEMORY_GIB = 3
"""Available memory, in GiB. Measured: the servers use 0.8, the processes of a stage or the demo's training about 2."""


def check_disk(folder: Path, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Check:
    """Check the free disk space at the folder of the local store and servers."""
    room = free(nearest_existing(folder)) / GIB
    detail = f"{room:.1f} GiB free at {folder} (needed: {DISK_GIB})"
    remedy = "free disk space, or set PAIRMILL_HOME and store.uri to folders on another disk"
    fits = room >= DISK_GIB
    return Check("disk", fits, "error" if room < FULL_GIB else "warning", detail, "" if fits else remedy)


def check_growth(home: Path, bounds: Mapping[str, tuple[float, str]] = GROWTH) -> list[Check]:
    """Check what runs leave in a home: databases, logs, and the files of registered models."""
    checks = []
    for pattern, (gigabytes, remedy) in bounds.items():
        used = sum(path.stat().st_size for path in home.glob(pattern) if path.is_file()) / 1e9
        if used > gigabytes:
            detail = f"{pattern} in {home} has {used:.1f} GB (expected: at most {gigabytes:g})"
            checks.append(Check("growth", False, "warning", detail, remedy))
    return checks or [Check("growth", True, "warning", "databases, logs and models are of the expected size")]


def check_memory() -> Check:
    """Check the available memory, within the container's limit if there is one."""
    room = _available_memory() / GIB
    detail = f"{room:.1f} GiB available (needed: {MEMORY_GIB})"
    remedy = "end other programs, raise the container's memory limit, or lower train.batch_size"
    fits = room >= MEMORY_GIB
    return Check("memory", fits, "warning", detail, "" if fits else remedy)


def check_gpu(find: Callable[[str], str | None] = shutil.which, torch_cuda: str | None = "installed") -> Check:
    """Check which GPU training will use, and whether torch and the driver fit. Without a GPU, training runs on the CPU.

    Args:
        find: returns the path of a program or None, as shutil.which does.
        torch_cuda: the CUDA version that torch was built for, None for a build without CUDA; by default that of the
            installed torch.
    """
    tool = find("nvidia-smi")
    if tool is None:
        return Check("gpu", True, "warning", "none (no nvidia-smi): training runs on the CPU")
    try:
        listed = _run(tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
        driver_cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", _run(tool))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        remedy = "repair the NVIDIA driver (after an update: reboot), or remove it"
        return Check("gpu", False, "warning", f"nvidia-smi failed: {error}", remedy)
    detail = "; ".join(line for line in listed.splitlines() if line)
    built = installed_torch_cuda() if torch_cuda == "installed" else torch_cuda
    if built is None:
        remedy = "install torch's CUDA build: see torch's start page for the command, or use the image pairmill:cuda"
        detail += "; but torch is a build without CUDA: training will not use the GPU"
        return Check("gpu", False, "warning", detail, remedy)
    # A driver runs programs built for older major versions of CUDA, and for all minor versions of its own major version.
    if driver_cuda and int(built.split(".")[0]) > int(driver_cuda[1].split(".")[0]):
        detail += (
            f"; but torch is built for CUDA {built} and the driver supports {driver_cuda[1]}: training cannot start"
        )
        remedy = f"update the NVIDIA driver, or install a torch that is built for CUDA {driver_cuda[1]} or older"
        return Check("gpu", False, "warning", detail, remedy)
    return Check("gpu", True, "warning", f"{detail}; torch is built for CUDA {built}")


def check_compiler(device: str, *, is_needed: bool) -> Check:
    """Check that `train.compile = true` finds a compiler and a folder for what it makes.

    Args:
        device: cuda or cpu.
        is_needed: a config asks for it.
    """
    severity = "error" if is_needed else "warning"
    try:
        return Check("compiler", True, severity, f"compiled kernels for {device} lie in {prepare_compiler(device)}")
    except ConfigError as error:
        return Check("compiler", False, severity, str(error), REMEDY)


def installed_torch_cuda() -> str | None:
    """Return the CUDA version that the installed torch was built for, or None; torch is not imported, for speed."""
    try:
        found = metadata.distribution("torch")
        text = Path(str(found.locate_file("torch/version.py"))).read_text()
    except (metadata.PackageNotFoundError, OSError):
        return None
    built = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d[\d.]*)['\"]", text, flags=re.MULTILINE)
    return built[1] if built else None


def _run(tool: str, *options: str) -> str:
    command = [tool, *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip()[:300])
    return done.stdout


def nearest_existing(path: Path) -> Path:
    """Return the path itself, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _available_memory() -> int:
    """Return the bytes that this process and its children can still allocate, within the container's limit.

    Source: the kernel's cgroup-v2.rst, memory.max and memory.current.
    """
    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    # memory.current counts caches, which can be freed, so this is a lower bound.
    return available if limit == "max" else min(available, max(0, int(limit) - used))
