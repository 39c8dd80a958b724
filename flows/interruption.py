"""End a run soon after Ctrl-C, SIGTERM or SIGHUP, whatever it is doing, and print how to continue it.

The first signal raises KeyboardInterrupt in the main thread, so that leases are released and the record is closed. A thread
ends the process when that takes longer than END_SECONDS: a server that is down, or a library that ignores the interrupt,
cannot delay the end. Only work that is marked (tasks.engine.process_guard) gets more time. A second signal ends it at once.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from dataops.command_name import format_message
from tasks.engine.process_guard import GRACE_SECONDS, is_finishing
from tasks.engine.subprocess_job import end_jobs

END_SECONDS = 1.2
"""Seconds for the regular end."""
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75}
"""Exit code by signal: 130 as shells have it; 75, retryable, when something else stops the run, such as its terminal."""
IS_OUTCOME = "is_outcome"
"""Attribute of a log record about the end of a run, which the command prints itself."""
_freezers: list[Callable[[], bool]] = []
"""Functions that stop what is being drawn on the terminal, and return whether a line is unfinished there."""
_current: "Interruption | None" = None


class Interruption:
    """Handles SIGINT, SIGTERM and SIGHUP for the command that works on one run.

    Args:
        run_id: the run.
        rerun: the command that continues it.
        as_json: print the outcome as JSON on standard output too.
    """

    def __init__(self, run_id: str, rerun: str, *, as_json: bool = False):
        self.run_id, self.rerun, self.as_json = run_id, rerun, as_json
        self.signal: signal.Signals | None = None
        self._lock = threading.RLock()  # the second signal may interrupt the report of the first one
        self._reported = False

    @property
    def cause(self) -> str:
        """What stopped the run."""
        return self.signal.name if self.signal and self.signal != signal.SIGINT else "Ctrl-C"

    def install(self) -> None:
        """Handle the signals from now on; called in the main thread, again after a library has replaced the handlers."""
        global _current
        _current = self
        for number in EXIT_CODES:
            if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # else nohup started it
                signal.signal(number, self._handle)

    @property
    def exit_code(self) -> int:
        """Exit code of the command after the signal."""
        return EXIT_CODES[self.signal or signal.SIGINT]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            self.end_now()
        self.signal = signal.Signals(number)
        if any([freeze() for freeze in _freezers]):
            _write("\n")
        threading.excepthook = lambda failure: None  # threads that lose their workers have nothing to report
        sys.unraisablehook = lambda failure: None  # nor does code that ignores the exception, such as a destructor
        for name in (None, "prefect"):  # Prefect reports the interrupt as a crash, with tracebacks
            for handler in logging.getLogger(name).handlers:
                handler.setLevel(logging.CRITICAL + 1)
        threading.Thread(target=self._end_in_time, name="interruption", daemon=True).start()
        raise KeyboardInterrupt

    def _end_in_time(self) -> None:
        """End the process when the regular end takes too long."""
        limit, reported = time.monotonic() + GRACE_SECONDS + END_SECONDS, False
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            if is_finishing():
                deadline = min(limit, time.monotonic() + END_SECONDS)
                if not reported and limit - time.monotonic() < GRACE_SECONDS:
                    reported = True
                    _write(f"waiting up to {GRACE_SECONDS} s for a checkpoint; Ctrl-C again ends the run at once\n")
            time.sleep(0.05)
        self.end_now()

    def end_now(self) -> None:
        """Report, kill the jobs and workers of this process, and end it."""
        self.report()
        end_jobs(signal.SIGKILL)
        for child in psutil.Process().children(recursive=True):
            try:
                child.kill()
            except psutil.Error:  # it has ended
                continue
        os._exit(self.exit_code)

    def report(self) -> None:
        """Print once what happened and how to continue the run."""
        with self._lock:
            if self._reported:
                return
            self._reported = True
        message = f"stopped by {self.cause}; finished work is kept"
        _write(f"{self.run_id}: {message}\n`{self.rerun}` continues this run\n")
        if self.as_json:
            error = {"type": "Interrupted", "message": message, "exit_code": self.exit_code}
            sys.stdout.write(json.dumps({"run_id": self.run_id, "error": error}) + "\n")
            sys.stdout.flush()


def describe_cause(error: BaseException) -> str:
    """Return what stopped a flow: a signal to the command, or else the name of the exception."""
    return _current.cause if _current and _current.signal else type(error).__name__


@contextmanager
def freezing(freeze: Callable[[], bool]) -> Iterator[None]:
    """Call a function of `_freezers` at a signal inside the `with`."""
    _freezers.append(freeze)
    try:
        yield
    finally:
        _freezers.remove(freeze)


def rearm() -> None:
    """Take the signals back from Prefect, which handles SIGTERM in a flow; does nothing where no command handles them."""
    if _current and threading.current_thread() is threading.main_thread():
        _current.install()


def _write(text: str) -> None:
    """Write to standard error, without its buffer, which may be locked by what was interrupted."""
    with suppress(OSError):  # its terminal is closed
        os.write(sys.stderr.fileno(), format_message(text).encode("utf-8", "replace"))
