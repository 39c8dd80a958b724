"""Failures of GPUs, ranks and disks. They end a job with exit code 75, since a rerun resumes from the last checkpoint.

torch reports them as RuntimeErrors, whose text alone tells their kinds apart.
"""

import errno
import os
import platform
import re
import time
from pathlib import Path

import torch
import torch.distributed as dist

from dataops.errors import PairmillError, StorageError
from training import distributed

KERNEL_LOG = Path("/dev/kmsg")
RECENT_SECONDS = 600
"""Age of the oldest line of the kernel's log that may explain a failure."""
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE}
_GPU = re.compile(
    r"\b(CUDA|HIP|cuDNN|NCCL) (driver )?error|\b(CUDNN|CUBLAS|CUSOLVER)_STATUS_|\bnccl(Unhandled|System|Internal|Remote)"
)
_PERMANENT = re.compile(
    r"device-side assert|no kernel image|invalid device ordinal|invalid argument|insufficient driver|"
    r"STATUS_(NOT_SUPPORTED|INVALID_VALUE|BAD_PARAM)|not compiled with CUDA"
)
"""Failures that come from the program or the machine's software: a rerun fails in the same way."""
_LOST = re.compile(r"\bgloo\b|connection (closed|reset) by peer|broken pipe|socket timeout|timed out waiting", re.I)
_XID = re.compile(r"^\d+,\d+,(\d+),.*?(NVRM: Xid .*)$", re.MULTILINE)
"""Line of /dev/kmsg: its time in microseconds since boot, and the GPU's error. Source: Linux, Documentation/ABI/testing/
dev-kmsg; NVIDIA, Xid Errors."""


class DeviceFailed(PairmillError):
    """A GPU or its connection to others failed."""

    exit_code = 75
    retryable = True


class RankLost(PairmillError):
    """Another rank ended, so that this one cannot continue; the other one has the cause."""

    exit_code = 75
    retryable = True


def explain_failure(error: BaseException, kernel_log: Path = KERNEL_LOG) -> PairmillError | None:
    """Return the error to end a job with for a failure of a disk, a GPU or another rank; None for any other error."""
    if isinstance(error, OSError):
        return _explain_disk(error)
    text = str(error)
    if not isinstance(error, RuntimeError) or _PERMANENT.search(text):
        return None
    reason, where = text.strip().partition("\n")[0], f"rank {distributed.rank()} on {platform.node()}"
    if isinstance(error, torch.AcceleratorError | dist.DistBackendError) or _GPU.search(text):
        xids = _describe_xids(kernel_log)
        return DeviceFailed(f"the GPU of {where} failed: {reason}; {xids}; run the job again to resume it")
    if isinstance(error, dist.DistError) or _LOST.search(text):
        return RankLost(f"{where} lost another rank: {reason}; run the job again to resume it")
    return None


def _explain_disk(error: OSError) -> StorageError | None:
    if error.errno not in _DISK:
        return None
    place, remedy = (
        error.filename or "the job's folder",
        "make room or repair the disk, and run the job again to resume it",
    )
    return StorageError(f"{place}: {error.strerror}; {remedy}", retryable=False)


def _describe_xids(kernel_log: Path) -> str:
    """Return the errors of GPUs that the kernel has logged lately, or where to look for them."""
    try:
        log = _read_kernel_log(kernel_log)
    except OSError:
        return f"look for 'NVRM: Xid' in the kernel's log of {platform.node()}"
    since = time.clock_gettime(time.CLOCK_MONOTONIC) - RECENT_SECONDS
    xids = [text.strip() for microseconds, text in _XID.findall(log) if int(microseconds) / 1e6 >= since]
    return "; ".join(xids[-3:]) or f"the kernel's log of {platform.node()} has no Xid"


def _read_kernel_log(path: Path) -> str:
    """Read what the log holds now: each read returns one line, and fails when there is none."""
    lines = []
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while line := os.read(descriptor, 8192):
            lines.append(line)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
    return b"".join(lines).decode("utf-8", "replace")
