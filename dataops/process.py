"""Processes: a fingerprint that survives the reuse of a pid, the end of a parent, cores and memory. Imports no torch."""

import codecs
import io
import locale
import os
import platform
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from dataops.errors import ConfigError
from dataops.redaction import is_secret_variable, remove_credentials

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
    return sum(os.times()[:4])


def processor_name() -> str:
    """Return the name of this machine's processor with its family and model: a cloud's names are short ("AMD EPYC")."""
    return " ".join(map(_read_cpuinfo, ("model name", "cpu family", "model\t"))).strip() or platform.machine()


def _read_cpuinfo(key: str) -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


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
    return "bf16" if {"avx512_bf16", "amx_bf16"} & {*_read_cpuinfo("flags").split()} else "fp32"


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

    A pipeline that is killed cannot stop its workers and trainers, and its rerun must not meet the
    old ones. `pid` need not be the direct parent: torchrun stands between a pipeline and its
    trainers. On another machine than the pipeline's (ELSEWHERE) this does nothing: the trainers
    there end with the ranks that they are joined to.

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


JOB_ENVIRONMENT = "PAIRMILL_JOB_ENVIRONMENT"
"""Environment variable with further names that reach jobs, separated by commas; each passes whatever its value is."""
_EXACT = """
PATH HOME USER LOGNAME SHELL TZ LANG LANGUAGE TMPDIR TEMP TMP XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME
LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX MALLOC_CONF
_RJEM_MALLOC_CONF ARROW_DEFAULT_MEMORY_POOL MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_ MALLOC_MMAP_THRESHOLD_ MALLOC_TOP_PAD_
PYTHONDONTWRITEBYTECODE PYTHONFAULTHANDLER PYTHONHASHSEED PYTHONHOME PYTHONIOENCODING PYTHONMALLOC PYTHONNOUSERSITE
PYTHONPATH PYTHONPYCACHEPREFIX PYTHONTRACEMALLOC PYTHONUNBUFFERED PYTHONUSERBASE PYTHONUTF8 PYTHONWARNINGS
NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NVIDIA_TF32_OVERRIDE
HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES GPU_DEVICE_ORDINAL HSA_OVERRIDE_GFX_VERSION
ATEN_CPU_CAPABILITY VECLIB_MAXIMUM_THREADS NUMBA_NUM_THREADS NUMBA_CACHE_DIR RAYON_NUM_THREADS
POLARS_MAX_THREADS TOKENIZERS_PARALLELISM CC CXX CPATH LIBRARY_PATH
HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE HF_ENDPOINT HF_HUB_ETAG_TIMEOUT HF_HUB_DOWNLOAD_TIMEOUT
HF_HUB_DISABLE_TELEMETRY DO_NOT_TRACK SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
PAIRMILL_HOME PAIRMILL_ELSEWHERE PAIRMILL_CACHE_BYTES PAIRMILL_SERVICE
"""
_BEGINNINGS = "LC_ CUDA_ CUBLAS_ CUDNN_ NCCL_ GLOO_ OMP_ GOMP_ KMP_ MKL_ DNNL_ ONEDNN_ OPENBLAS_ TORCH_ PYTORCH_"
_BEGINNINGS += " TORCHINDUCTOR_ TORCHDYNAMO_ TRITON_ FI_ OFI_ UCX_ RDMAV_"
NAMES = frozenset([JOB_ENVIRONMENT, *_EXACT.split()])
"""Names that reach each job. A value that is a URL with credentials does not: a proxy with a password."""
FAMILIES = tuple(_BEGINNINGS.split())
"""Beginnings of names of settings of libraries, which reach each job too, unless `is_secret_variable` names them."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def select_job_environment(
    environ: Mapping[str, str], *, added: bool = True, allowed: frozenset[str] = NAMES
) -> dict[str, str]:
    """Return the variables of an environment that a job gets.

    Args:
        added: with the names in JOB_ENVIRONMENT.
        allowed: names that pass, besides FAMILIES.

    Raises: ConfigError if JOB_ENVIRONMENT is no list of names.
    """
    listed = environ.get(JOB_ENVIRONMENT, "") if added else ""
    names = {name for part in listed.split(",") if (name := part.strip())}
    if wrong := sorted(name for name in names if not _NAME.fullmatch(name)):
        raise ConfigError(f"{JOB_ENVIRONMENT}: {wrong[0]!r} is no name of a variable; separate names by commas")

    def passes(name: str, value: str) -> bool:
        is_allowed = (name in allowed or name.startswith(FAMILIES)) and not is_secret_variable(name)
        return name in names or (is_allowed and remove_credentials(value) == value)

    return {name: value for name, value in environ.items() if passes(name, value)}


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if the environment forces another encoding.

    Under LC_ALL=C, for instance, a path that is not ASCII could neither be printed nor stored.
    Child processes inherit the mode. PYTHONIOENCODING stays in force.
    """
    encodings = {codecs.lookup(name).name for name in (sys.getfilesystemencoding(), locale.getpreferredencoding(False))}
    if encodings == {"utf-8"} or os.environ.get("PYTHONUTF8") == "1":  # the second: Python ignores its environment (-E)
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def escape_unencodable_output() -> None:
    r"""Let standard output and error print any text: what their encoding lacks is written as `\xe9` or `\u6570`.

    A closed stream is replaced by one that discards its text. Undecodable input raises no error either.
    """
    sys.stdin, sys.stdout, sys.stderr = (
        stream if stream is not None else open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
        for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w"))
    )
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_utf8(text: str) -> bool:
    """Return whether a text, such as a path, can be written as UTF-8: it has no bytes that could not be decoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
