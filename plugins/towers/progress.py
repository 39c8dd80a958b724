"""Log how much of the features is computed: `pairmill run` shows the lines (tasks/train/stage.py)."""

import logging
import time
from collections.abc import Iterable, Iterator

import numpy as np

LOG_SECONDS = 2
"""Seconds between two lines."""

logger = logging.getLogger(__name__)
Rows = tuple[np.ndarray, np.ndarray]


class Progress:
    """Counts the images or captions that a pretrained network has read."""

    def __init__(self, kind: str, total: int):
        self.kind, self.total, self.done, self.started = kind, total, 0, time.monotonic()
        self.logged = self.started

    def follow(self, batches: Iterable[Rows]) -> Iterator[Rows]:
        """Yield numbers and features of some rows at a time, and log the share of those so far."""
        for rows, features in batches:
            self.done, now = self.done + len(rows), time.monotonic()
            if now - self.logged >= LOG_SECONDS:
                self.logged = now
                share = 100 * self.done // self.total
                logger.info("the pretrained network reads %s: %d%% of %s", self.kind, share, f"{self.total:,}")
            yield rows, features

    def end(self) -> None:
        """Log the time that all took."""
        seconds = time.monotonic() - self.started
        logger.info("the features of %s %s are computed in %.1f s", f"{self.total:,}", self.kind, seconds)
