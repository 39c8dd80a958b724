"""A trace of some steps by torch's profiler, which Perfetto displays."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from training import distributed

logger = logging.getLogger(__name__)

WAIT, WARM_UP = 8, 2
"""Steps before the traced ones: those that compile and fill caches, and those that the profiler itself needs."""
MAX_BYTES = 64 * 1024**2


class StepProfiler:
    """Traces steps of rank 0 into a file, inside a `with`, which gives a function to call after each step.

    It does nothing if they are 0 or the trace is there.

    Args:
        path: of the trace, a name that ends in .json.gz.
        steps: number of steps to trace.
        left: steps that the job still takes; a job that has too few begins earlier.
    """

    def __init__(self, path: Path, steps: int, left: int, device: torch.device, max_bytes: int = MAX_BYTES):
        self._path, self._max_bytes = path, max_bytes
        self._profile: profile | None = None
        if not steps or distributed.rank() > 0 or self._path.exists():
            return
        warm_up = min(WARM_UP, max(0, left - 1))
        wait = max(0, min(WAIT, left - warm_up - steps))
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])],
            schedule=schedule(wait=wait, warmup=warm_up, active=max(1, min(steps, left - warm_up)), repeat=1),
            on_trace_ready=self._write,
        )

    def __enter__(self) -> Callable[[], None]:
        if self._profile is not None:
            self._profile.start()
        return self._end_step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._profile is not None:
            if kind is not None:
                self._profile.on_trace_ready = None  # a resumed job traces its steps anew
            self._profile.stop()

    def _end_step(self) -> None:
        if self._profile is not None:
            self._profile.step()

    def _write(self, finished: Any) -> None:
        part = self._path.with_name(f".{self._path.name}")  # its end selects the compression
        try:
            finished.export_chrome_trace(str(part))
            size = part.stat().st_size
            if size > self._max_bytes:
                problem = f"the trace has {size} bytes, more than {self._max_bytes}"
                logger.warning("%s, and is not kept: lower profile", problem)
                return
            part.replace(self._path)
            logger.info("trace of %s is written", self._path.name)
        except (OSError, RuntimeError) as error:
            logger.warning("no trace was written: %s: %s", type(error).__name__, error)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
