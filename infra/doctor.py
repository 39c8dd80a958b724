"""What is missing or wrong on this machine, each finding with its exact remedy: `pairmill doctor`.

Looks and changes nothing, except that it writes and deletes one object in a store that exists.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from dataops.errors import PairmillError
from dataops.store import open_store
from infra import installation, processes, services
from infra.check import Check
from infra.installation import refuse_on_clash

__all__ = ["Check", "diagnose", "refuse_on_clash"]

GIB = 2**30
DISK_GIB = 5
"""Room for an environment's worth of shards and checkpoints; below it a run may end half-way."""
MEMORY_GIB = 3
"""Measured: servers 0.8 GiB, a stage's processes and the demo's training about 2."""


def diagnose(store_uri: str | None = None) -> list[Check]:
    """All checks, in the order in which remedies should be applied.

    Args:
        store_uri: the store to look at; by default the one that the demo uses.
    """
    store = store_uri or str(services.home() / "store")
    checks = [*_installed(), *check_services(), *check_ports(), check_store(store), check_disk(services.home())]
    return [*checks, check_memory(), check_gpu()]


def _installed() -> list[Check]:
    python, wanted = installation.requirements()
    checks = installation.check_names()
    checks.append(installation.check_checkout())
    try:
        checks += [installation.check_python(python), *installation.check_packages(wanted)]
    except ModuleNotFoundError as error:  # packaging, which the dependencies bring: nothing is installed
        remedy = f"cd {installation.ROOT} && python -m pip install -e ."
        checks.append(Check("packages", False, "error", f"no dependency is installed ({error})", remedy))
    return [*checks, installation.check_backport()]


def check_services(found: list[services.ServiceStatus] | None = None) -> list[Check]:
    """Whether the servers answer. Stopped ones are no fault: a run starts them."""
    checks = []
    for service in services.status() if found is None else found:
        name = f"{service.name} server"
        if service.healthy:
            checks.append(Check(name, True, "error", f"{service.state}, {service.url}"))
        elif service.state == "external":
            variable = services.CLIENT_VARIABLE[service.name]
            remedy = f"start that server, or unset {variable} and let `pairmill up` start one here"
            checks.append(Check(name, False, "error", f"{variable} names {service.url}, which does not answer", remedy))
        elif service.state == "stale":
            detail = f"was started at {service.url} and does not answer; its log is {service.log}"
            checks.append(Check(name, False, "warning", detail, "pairmill up"))
        else:
            checks.append(Check(name, True, "warning", "not running; `pairmill up` starts it, and so does a run"))
    return checks


def check_ports(is_free: Callable[[int], bool] = processes.is_free) -> list[Check]:
    """Who holds the servers' default ports. Another program there is no fault: ours then take other ports."""
    own = {service.name: service for service in services.status()}
    checks = []
    for service in (services.PREFECT, services.MLFLOW):
        port, status = service.port or 0, own[service.name]
        if status.state == "external":
            continue
        if status.healthy and status.ui_url.endswith(f":{port}"):
            detail = f"our {service.name} server"
        else:
            detail = "free" if is_free(port) else f"another program's; the {service.name} server takes another port"
        checks.append(Check(f"port {port}", True, "warning", detail))
    return checks


def check_store(uri: str, probe: Callable[[str], None] | None = None) -> Check:
    """Whether the store can be written. A folder that does not exist yet is not made.

    Args:
        uri: a folder, or s3://bucket/prefix.
        probe: writes and deletes one object, or raises a PairmillError.
    """
    folder = None if "://" in uri else Path(uri).expanduser().absolute()
    if folder is not None and not folder.exists():
        parent = _existing(folder)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return Check("store", True, "error", f"{folder} will be made")
        detail = f"{folder} does not exist and {parent} is not a folder that you may write in"
        return Check("store", False, "error", detail, "set store.uri in the config to a folder that you own")
    try:
        (probe or _probe)(uri)
    except PairmillError as error:
        remedy = "see the message; for s3:// check AWS_ENDPOINT_URL, credentials and that the bucket exists"
        if folder is not None:
            remedy = f"sudo chown -R $(id -u) {folder}, or set store.uri in the config to a folder that you own"
        return Check("store", False, "error", str(error), remedy)
    return Check("store", True, "error", f"{uri} can be written")


def _probe(uri: str) -> None:
    open_store(uri).check_writable()


def check_disk(folder: Path, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> Check:
    """Free room where the local store and servers are."""
    room = free(_existing(folder)) / GIB
    detail = f"{room:.1f} GiB free at {folder} (wanted {DISK_GIB})"
    remedy = "free some, or set PAIRMILL_HOME and store.uri to another disk"
    return (
        Check("disk", True, "warning", detail) if room >= DISK_GIB else Check("disk", False, "warning", detail, remedy)
    )


def check_memory(available: int | None = None) -> Check:
    """Memory that is free to take, within the container's limit where there is one."""
    room = (_available_memory() if available is None else available) / GIB
    detail = f"{room:.1f} GiB available (wanted {MEMORY_GIB})"
    remedy = "end other programs, raise the container's memory limit, or lower train.batch_size"
    if room >= MEMORY_GIB:
        return Check("memory", True, "warning", detail)
    return Check("memory", False, "warning", detail, remedy)


def check_gpu(find: Callable[[str], str | None] = shutil.which) -> Check:
    """Which GPU training will find. None is no fault: the demo trains on the CPU."""
    tool = find("nvidia-smi")
    if tool is None:
        return Check("gpu", True, "warning", "none (no nvidia-smi): training runs on the CPU")
    command = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("gpu", False, "warning", f"nvidia-smi fails: {error}", "repair the NVIDIA driver, or remove it")
    if done.returncode:
        detail = f"nvidia-smi fails: {(done.stdout + done.stderr).strip()[:300]}"
        return Check(
            "gpu", False, "warning", detail, "repair the NVIDIA driver (a reboot after an update), or remove it"
        )
    return Check("gpu", True, "warning", "; ".join(done.stdout.split("\n")).strip("; "))


def _existing(path: Path) -> Path:
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
