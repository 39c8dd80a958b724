"""Log how much of a long computation is done: `pairmill run` shows the newest line (tasks/engine/context.py, READ)."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

LOG_SECONDS = 2
"""Seconds between two lines."""

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch")


class Progress:
    """Counts the images or texts that a network has read.

    Args:
        reader: the model or the pretrained network.
        kind: images, captions, ...
        total: number of all; None: not known.
    """

    def __init__(self, reader: str, kind: str, total: int | None = None):
        self.reader, self.kind, self.total = reader, kind, total
        self.done, self.started = 0, time.monotonic()
        self.logged = self.started

    def follow(self, batches: Iterable[Batch], count: Callable[[Batch], int]) -> Iterator[Batch]:
        """Yield batches, and log how many rows were read so far.

        Args:
            count: returns the number of rows of a batch.
        """
        for batch in batches:
            self.done, now = self.done + count(batch), time.monotonic()
            if now - self.logged >= LOG_SECONDS:
                self.logged = now
                share = f"{100 * self.done // self.total}% of {self.total:,}" if self.total else f"{self.done:,}"
                logger.info("the %s reads %s: %s", self.reader, self.kind, share)
            yield batch

    def end(self) -> None:
        """Log the time that all took."""
        seconds = time.monotonic() - self.started
        logger.info("the features of %s %s are computed in %.1f s", f"{self.done:,}", self.kind, seconds)
