"""Starts a command in its own session and lets go of it. Run as a script; it prints the pid and ends.

The process is adopted by init, so it outlives whoever asked for it, never becomes its zombie, and hears neither its
terminal's Ctrl-C nor its hang-up. Run isolated (`python -I -S detach.py COMMAND...`), it costs about 20 ms; standard
error is where the command's output goes.
"""

import os
import sys


def main() -> None:
    """Fork, report the child's pid on standard output, and become the command in the child."""
    pid = os.fork()
    if pid:
        os.write(1, str(pid).encode())
        os._exit(0)
    os.setsid()
    os.dup2(2, 1)
    try:
        os.execv(sys.argv[1], sys.argv[1:])
    except OSError as error:
        os.write(2, f"cannot run {sys.argv[1]}: {error}\n".encode())
        os._exit(127)


if __name__ == "__main__":
    main()
