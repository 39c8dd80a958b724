"""The logs of a run: metrics.jsonl, evidence-throughput.jsonl and log lines, all written by rank 0.

A row of metrics.jsonl holds nothing that differs between two runs of a job; clocks are in the
evidence.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dataops.digest import canonical_json
from dataops.process import resident_bytes
from training import distributed
from training.data.loader import Batch
from training.data.sampling_plan import Plan
from training.loop.flops import find_peak

logger = logging.getLogger(__name__)


SHOW_SECONDS = 5.0
"""Time after which a step gets a short line although the interval has not ended."""


class MetricsLog:
    """metrics.jsonl, evidence-throughput.jsonl and the log lines, on rank 0.

    `waited` is the time that the loop has waited for batches, in seconds.

    Args:
        device, precision: those of this rank's towers; they decide the peak that `mfu` refers to.
    """

    def __init__(self, output: Path, plan: Plan, log_every: int, device: torch.device, precision: str):
        self.plan, self.log_every = plan, log_every
        self.device, self.peak = device, find_peak(device, precision)
        self.writes = distributed.rank() == 0
        self.metrics = (output / "metrics.jsonl").open("a", encoding="utf-8") if self.writes else None
        self.evidence = (output / "evidence-throughput.jsonl").open("a", encoding="utf-8") if self.writes else None
        self.since, self.seen, self.waited, self.done = time.perf_counter(), 0, 0.0, 0.0
        self.waited_before = 0.0
        self.shown = self.since

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.metrics, self.evidence):
            if file is not None:
                file.close()

    def timed(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches, and measure the time that the loop waits for them."""
        while True:
            begin = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def write(self, row: dict[str, Any], flops: float, ended: float, waited: float) -> None:
        """Write a step's metrics and, at each interval, its throughput and a log line.

        Args:
            flops: operations of the step on all ranks.
            ended: time at which the step had ended, by time.perf_counter.
            waited: `self.waited` before the batch of the next step.
        """
        if self.metrics is None or self.evidence is None:
            return
        self.metrics.write(canonical_json(row) + "\n")
        step, seen = row["step"], row["samples_seen"]
        pairs = seen - self.plan.samples_seen(step - 1)
        self.seen += pairs
        self.done += flops
        if step % self.log_every and step != self.plan.total_steps:
            self._show_step(row)
            return
        seconds = ended - self.since
        rate, waiting = self.seen / seconds, (waited - self.waited_before) / seconds
        evidence = {"step": step, "samples_per_second": rate, "data_wait_fraction": waiting}
        evidence |= {"interval_seconds": seconds, "flops_per_second": self.done / seconds, **self._measure_memory()}
        if self.peak is not None:
            evidence["mfu"] = self.done / seconds / (self.peak * distributed.world_size())
        self.evidence.write(canonical_json(evidence) + "\n")
        self.evidence.flush()
        self.metrics.flush()
        logger.info(
            "step %d/%d, %s samples, loss %.4f, %.0f samples/s, recall %.1f%%, scale %.1f, gradient %.2f, lr %.2e, "
            "wait %.0f%%",
            step,
            self.plan.total_steps,
            f"{seen:,}",
            row.get("loss", math.nan),
            rate,
            100 * row["image_to_text_recall"],
            math.exp(row["logit_scale"]),
            row.get("grad_norm", math.nan),
            row["lr"],
            100 * waiting,
        )
        self.shown = time.perf_counter()
        self.since, self.seen, self.waited_before, self.done = ended, 0, waited, 0.0

    def _measure_memory(self) -> dict[str, float]:
        """Return the memory of this rank in GB, from counters of the host: the device is not asked."""
        memory = {"process_memory_gb": resident_bytes() / 1e9}
        if self.device.type == "cuda":
            memory["gpu_peak_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return memory

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside the `with` out of the throughput, as that of an evaluation."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def _show_step(self, row: dict[str, object]) -> None:
        """Log a short line about a slow step between two intervals, from which the pipeline reads how far it is."""
        now = time.perf_counter()
        if now - self.shown >= SHOW_SECONDS:
            self.shown = now
            rate, line = self.seen / (now - self.since), "step %d/%d, loss %.4f, %.0f samples/s"
            logger.info(line, row["step"], self.plan.total_steps, row.get("loss", math.nan), rate)

    def sync(self) -> int:
        """Flush metrics.jsonl to disk, and return its length in bytes."""
        assert self.metrics is not None
        self.metrics.flush()
        os.fsync(self.metrics.fileno())
        return os.fstat(self.metrics.fileno()).st_size
