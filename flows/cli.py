"""Entry of the `pairmill` command: it ends quietly on Ctrl-C, and when nobody reads its output.

It imports nothing heavy, so that it handles a Ctrl-C while Python imports the rest.
"""

import os
import select
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it."""
UNREAD = 128 + signal.SIGPIPE
"""Exit code when the reader of the output has ended, as in `pairmill runs | head -1`; shells have it of other tools."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code.

    Args:
        arguments: of the command; by default those of this process, which then uses UTF-8 and names itself as typed.
    """
    handles_interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else a shell has it ignored
    if handles_interrupt:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from flows.app import run_command, use_process_settings

        if arguments is None:
            use_process_settings()
        code = run_command(sys.argv[1:] if arguments is None else arguments)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except KeyboardInterrupt:
        _report_interrupt()
        _discard_unread_output()
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:  # Rich raises SystemExit where its output has no reader
        if not _discard_unread_output() and isinstance(error, BrokenPipeError):
            raise
        code = UNREAD
    if handles_interrupt:
        signal.signal(signal.SIGINT, _end_now)  # what libraries do at the end of a process can be left out
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End the process if it imports a module, since an import may ignore an exception; else raise KeyboardInterrupt."""
    importing = frame
    while importing is not None:
        if importing.f_code.co_filename.startswith("<frozen importlib"):
            _end_now(number, frame)
        importing = importing.f_back
    raise KeyboardInterrupt


def _end_now(number: int, frame: FrameType | None) -> None:
    _report_interrupt()
    os._exit(INTERRUPTED)


def _report_interrupt() -> None:
    with suppress(OSError):  # nobody reads it
        os.write(2, b"pairmill: interrupted\n")


def _discard_unread_output() -> bool:
    """Return whether standard output or error is a pipe without a reader; the rest of such output is discarded."""
    is_unread = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        poll.register(stream, 0)  # a lost reader is always reported
        if poll.poll(0):
            is_unread = True
            discard = os.open(os.devnull, os.O_WRONLY)
            os.dup2(discard, stream.fileno())
            os.close(discard)
    return is_unread


if __name__ == "__main__":
    main()
