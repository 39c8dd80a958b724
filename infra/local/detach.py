"""Starts a command in a new session, prints its pid and ends. Run it as a script: `python -I -S detach.py COMMAND...`.

The process becomes a child of init: it outlives its caller, never becomes the caller's zombie, and
gets neither Ctrl-C nor the hang-up of its terminal. The script takes about 20 ms. The command's
output goes to standard error.
"""

import os
import sys


def main() -> None:
    """Fork, print the child's pid on standard output, and run the command in the child."""
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
