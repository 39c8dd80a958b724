"""What a run tells while it goes: metrics.jsonl, evidence-throughput.jsonl and lines for people, all from rank 0.

A row of metrics.jsonl holds nothing that differs between two runs of a job; clocks are in the evidence.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataops.digest import canonical_json
from training import distributed
from training.data import Batch
from training.plan import Plan

logger = logging.getLogger(__name__)


class Journal:
    """metrics.jsonl, evidence-throughput.jsonl and the log lines, on rank 0."""

    def __init__(self, output: Path, plan: Plan, log_every: int):
        self.plan, self.log_every = plan, log_every
        self.writes = distributed.rank() == 0
        self.metrics = (output / "metrics.jsonl").open("a", encoding="utf-8") if self.writes else None
        self.evidence = (output / "evidence-throughput.jsonl").open("a", encoding="utf-8") if self.writes else None
        self.since, self.seen, self.waited = time.perf_counter(), 0, 0.0

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.metrics, self.evidence):
            if file is not None:
                file.close()

    def timed(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time that they were waited for is counted."""
        while True:
            begin = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def write(self, row: dict[str, Any]) -> None:
        """A step's metrics and, at each interval, its throughput and a line for people."""
        if self.metrics is None or self.evidence is None:
            return
        self.metrics.write(canonical_json(row) + "\n")
        step, seen = row["step"], row["samples_seen"]
        self.seen += seen - self.plan.samples_seen(step - 1)
        if step % self.log_every and step != self.plan.total_steps:
            return
        seconds = time.perf_counter() - self.since
        rate, waiting = self.seen / seconds, self.waited / seconds
        evidence = {"step": step, "samples_per_second": rate, "data_wait_fraction": waiting, "seconds": seconds}
        self.evidence.write(canonical_json(evidence) + "\n")
        self.evidence.flush()
        self.metrics.flush()
        logger.info(
            "step %d/%d, %s samples, loss %.4f, recall %.1f%%, scale %.1f, gradient %.2f, lr %.2e, %.0f/s, wait %.0f%%",
            step,
            self.plan.total_steps,
            f"{seen:,}",
            row["loss"],
            100 * row["image_to_text_recall"],
            math.exp(row["logit_scale"]),
            row["grad_norm"],
            row["lr"],
            rate,
            100 * waiting,
        )
        self.since, self.seen, self.waited = time.perf_counter(), 0, 0.0

    def settle(self) -> int:
        """Put metrics.jsonl on disk; returns its length in bytes."""
        assert self.metrics is not None
        self.metrics.flush()
        os.fsync(self.metrics.fileno())
        return os.fstat(self.metrics.fileno()).st_size
