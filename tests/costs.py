"""What a call costs this process, whatever the tests before it have used."""

import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path


def read_status(name):
    """Return a number of bytes of /proc/self/status."""
    return 1024 * int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


def forget_peak():
    """Let the kernel forget the peak of this process's memory, `VmHWM`; return the bytes in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return read_status("VmRSS")


@contextmanager
def bounded(seconds, memory=1 << 60):
    """Check that the block takes less CPU time, and that the memory in use grows by fewer bytes in it.

    A peak of an earlier test would hide that of the block, and so would `ru_maxrss`, which only grows.
    """
    started, before = time.process_time(), forget_peak()
    yield
    assert time.process_time() - started < seconds
    assert read_status("VmHWM") - before < memory


@contextmanager
def allocating(most):
    """Check that Python's objects and numpy's arrays take fewer bytes at any time of the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
