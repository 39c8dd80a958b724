"""Read and write paths and texts of any language in any environment."""

import codecs
import io
import locale
import os
import sys


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if the environment forces another encoding.

    Under LC_ALL=C, for instance, a path that is not ASCII could neither be printed nor stored. Child processes inherit the
    mode. PYTHONIOENCODING stays in force.
    """
    encodings = {codecs.lookup(name).name for name in (sys.getfilesystemencoding(), locale.getpreferredencoding(False))}
    if encodings == {"utf-8"} or os.environ.get("PYTHONUTF8") == "1":  # the second: Python ignores its environment (-E)
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def escape_unencodable_output() -> None:
    r"""Let standard output and error print any text: what their encoding lacks is written as `\xe9` or `\u6570`.

    A closed stream is replaced by one that discards its text. Undecodable input raises no error either.
    """
    sys.stdin, sys.stdout, sys.stderr = (
        stream if stream is not None else open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
        for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w"))
    )
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def is_utf8(text: str) -> bool:
    """Return whether a text, such as a path, can be written as UTF-8: it has no bytes that could not be decoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
