"""Mark work that an interrupted command still finishes (a checkpoint), and start processes that Ctrl-C does not reach."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_SECONDS = 100
"""Seconds that such work may take after an interrupt: infra/compose.yaml and the Kubernetes template grant a container
120 s, and the rest is for the end of the run."""
_lock = threading.Lock()
_holders = 0


@contextmanager
def finish_first() -> Iterator[None]:
    """Let an interrupted command wait, up to GRACE_SECONDS, until the `with` ends."""
    global _holders
    with _lock:
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1


def is_finishing() -> bool:
    """Return whether such work is in progress."""
    return _holders > 0


@contextmanager
def block_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that this thread starts inside the `with`: they inherit its blocked signals.

    A signal handler of the child would be too late: it gets the signal while it still imports its modules.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
