"""Checks of this machine for `pairmill doctor`: disk, memory, GPU and whether the installed torch can use it."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from infra.doctor.check import Check

GIB = 2**30
DISK_GIB = 5
"""Room for an environment's worth of shards and checkpoints; below it a run may end half-way."""
MEMORY_GIB = 3
"""Measured: servers 0.8 GiB, a stage's processes and the demo's training about 2."""


def check_disk(folder: Path, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Check:
    """Free room where the local store and servers are."""
    room = free(nearest_existing(folder)) / GIB
    detail = f"{room:.1f} GiB free at {folder} (wanted {DISK_GIB})"
    remedy = "free some, or set PAIRMILL_HOME and store.uri to another disk"
    fits = room >= DISK_GIB
    return Check("disk", fits, "warning", detail, "" if fits else remedy)


def check_memory(available: int | None = None) -> Check:
    """Memory that is free to take, within the container's limit where there is one."""
    room = (_available_memory() if available is None else available) / GIB
    detail = f"{room:.1f} GiB available (wanted {MEMORY_GIB})"
    remedy = "end other programs, raise the container's memory limit, or lower train.batch_size"
    fits = room >= MEMORY_GIB
    return Check("memory", fits, "warning", detail, "" if fits else remedy)


def check_gpu(find: Callable[[str], str | None] = shutil.which, torch_cuda: str | None = "ask") -> Check:
    """Which GPU training will find, and whether torch and driver fit it. No GPU is no fault: training runs on the CPU.

    Args:
        find: as shutil.which.
        torch_cuda: the CUDA version that torch was built for, None for a build without; by default the installed one's.
    """
    tool = find("nvidia-smi")
    if tool is None:
        return Check("gpu", True, "warning", "none (no nvidia-smi): training runs on the CPU")
    try:
        listed = _ask(tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
        driver_cuda = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", _ask(tool))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        remedy = "repair the NVIDIA driver (a reboot after an update), or remove it"
        return Check("gpu", False, "warning", f"nvidia-smi fails: {error}", remedy)
    detail = "; ".join(line for line in listed.splitlines() if line)
    built = installed_torch_cuda() if torch_cuda == "ask" else torch_cuda
    if built is None:
        remedy = "install torch's CUDA build: see torch's start page for the command, or use the image pairmill:cuda"
        return Check(
            "gpu", False, "warning", f"{detail}; but torch is a build without CUDA: it will not be used", remedy
        )
    # A driver runs programs of its own major version of CUDA, also of a newer minor one, and of older majors.
    if driver_cuda and int(built.split(".")[0]) > int(driver_cuda[1].split(".")[0]):
        detail += (
            f"; but torch is built for CUDA {built} and the driver goes to {driver_cuda[1]}: training would not start"
        )
        remedy = f"update the NVIDIA driver, or install a torch that is built for CUDA {driver_cuda[1]} or older"
        return Check("gpu", False, "warning", detail, remedy)
    return Check("gpu", True, "warning", f"{detail}; torch is built for CUDA {built}")


def installed_torch_cuda(distribution: Callable[[str], metadata.Distribution] = metadata.distribution) -> str | None:
    """The CUDA version that the installed torch was built for, None for none; read from its files, not imported."""
    try:
        found = distribution("torch")
        text = Path(str(found.locate_file("torch/version.py"))).read_text()
    except (metadata.PackageNotFoundError, OSError):
        return None
    built = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d[\d.]*)['\"]", text, flags=re.MULTILINE)
    return built[1] if built else None


def _ask(tool: str, *options: str) -> str:
    done = subprocess.run([tool, *options], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip()[:300])
    return done.stdout


def nearest_existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _available_memory() -> int:
    """Bytes that this process and its children may still take.

    Source: proc_meminfo(5), MemAvailable; the kernel's cgroup-v2.rst, memory.max and memory.current.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        room = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (FileNotFoundError, StopIteration):  # no Linux: all memory, for want of a better figure
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return room
    # Caches count as used there and can be given back, so this is a lower bound.
    return room if limit == "max" else min(room, max(0, int(limit) - used))
