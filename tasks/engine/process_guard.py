"""Keep secrets and control characters out of the log records and last traceback of a process; let it print any text."""

import atexit
import gc
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.resource_tracker import ensure_running
from types import TracebackType
from typing import Any

from dataops.command_name import format_message, name_command
from dataops.process import escape_unencodable_output
from dataops.redaction import escape_for_display, redact, scrub


def guard_process() -> None:
    """Redact every log record of this process, and the traceback that it may end with, from now on; let it print any text.

    Log records name the command as the user typed it.

    A record is cleaned when it is made, so that each handler (a file, the terminal, Prefect's API) gets the clean text.
    A second call changes nothing.
    """
    escape_unencodable_output()
    if not isinstance(logging.getLogRecordFactory(), _CleanRecordFactory):
        logging.setLogRecordFactory(_CleanRecordFactory(logging.getLogRecordFactory()))
        atexit.register(gc.freeze)  # else Python looks for garbage in all modules at its end, which takes a second
    sys.excepthook, threading.excepthook = _print_exception, _print_thread_exception


class _CleanRecordFactory:
    def __init__(self, factory: Any):
        self.factory = factory

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.factory(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # the arguments do not fit the format: the handler would print both
            record.msg, record.args = "%s (with arguments that do not fit)", (redact(str(record.msg)),)
            return record
        if (clean := name_command(escape_for_display(message))) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1] is not None:
            error = scrub(record.exc_info[1])
            if error is not record.exc_info[1]:
                record.exc_info = (type(error), error, None)
        return record


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(format_message("".join(traceback.format_exception(kind, error, trace)), "CRITICAL"))


def _print_thread_exception(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and not issubclass(failure.exc_type, SystemExit):
        _print_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)


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
    ensure_running()  # the first process that Python starts also starts this, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
