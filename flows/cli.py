"""Entry of the `pairmill` command: it ends quietly on Ctrl-C and when nobody reads its output, and reports output
that cannot be written.

It imports nothing heavy, so that it handles a Ctrl-C while Python imports the rest.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it."""
UNREAD = 128 + signal.SIGPIPE
"""Exit code when the reader of the output has ended, as in `pairmill runs | head -1`; shells have it of other tools."""
UNWRITTEN = 75
"""Exit code when the output cannot be written, such as to a full disk: a rerun may succeed."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code.

    Args:
        arguments: of the command; by default those of this process, which then uses UTF-8 and names itself as typed.
    """
    if sys.stdout is None:  # it is closed: what is written then fails, as where it cannot be written
        os.dup2(os.open(os.devnull, os.O_RDONLY), 1)
        sys.stdout = os.fdopen(1, "w")
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
        _report("interrupted")
        _discard_unwritable_output()
        code = INTERRUPTED
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # else Rich raised it: its output has no reader
            raise
        _discard_unwritable_output()
        code = UNREAD
    except OSError:
        if (failure := _discard_unwritable_output(b"\n")) is None:
            raise
        code = UNREAD
        if not isinstance(failure, BrokenPipeError):
            _report(f"cannot write the output: {failure.strerror}")
            code = UNWRITTEN
    if handles_interrupt:
        signal.signal(signal.SIGINT, _end_now)  # what libraries do at the end of a process can be left out
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End the process if it imports a module, since an import may ignore an exception; else raise KeyboardInterrupt."""
    importing = frame
    while importing:
        if importing.f_code.co_filename.startswith("<frozen importlib"):
            _end_now(number, frame)
        importing = importing.f_back
    raise KeyboardInterrupt


def _end_now(number: int, frame: FrameType | None) -> None:
    _report("interrupted")
    os._exit(INTERRUPTED)


def _report(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        os.write(2, f"pairmill: {text}\n".encode())


def _discard_unwritable_output(probe: bytes = b"") -> OSError | None:
    """Discard the rest of standard output or error if it cannot be written; return the error, or None.

    Args:
        probe: is written too, since a stream forgets text that it could not write.
    """
    failure = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            os.write(stream.fileno(), probe)
        except OSError as error:
            failure, probe = failure or error, b""
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return failure


if __name__ == "__main__":
    main()
