"""Redraw a few lines at the bottom of a terminal while other lines are printed above them.

Rich's Live is not used: it draws over what a signal handler prints, and leaves remains when the terminal becomes narrower.
"""

import re
import threading
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console, RenderableType

REFRESH_SECONDS = 0.25
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


class TerminalBlock:
    """Draws what `render` returns, again and again, inside a `with`, and erases it at the end.

    Args:
        console: a console on a terminal.
        render: returns what to draw; every line must be shorter than the terminal.
    """

    def __init__(self, console: Console, render: Callable[[], RenderableType]):
        self._console, self._render = console, render
        self._lock, self._ended, self._frozen = threading.Lock(), threading.Event(), False
        self._lines: list[int] = []
        """Widths of the drawn lines."""
        self._thread = threading.Thread(target=self._redraw, name="terminal-block", daemon=True)

    def __enter__(self) -> "TerminalBlock":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._lock:
            if not self._frozen:
                self._write(self._erase())

    def freeze(self) -> bool:
        """Leave the block as it is, and return whether there is one. It takes no lock: a signal handler may call it."""
        self._frozen = True
        return bool(self._lines)

    def print_above(self, line: RenderableType) -> None:
        """Print above the block."""
        with self._console.capture() as captured:
            self._console.print(line, soft_wrap=True)
        with self._lock:
            self._write(captured.get() if self._frozen else self._erase() + captured.get() + self._draw())

    def _redraw(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                if not self._frozen and not self._ended.is_set():
                    self._write(self._erase() + self._draw())
            self._ended.wait(REFRESH_SECONDS)

    def _draw(self) -> str:
        with self._console.capture() as captured:
            self._console.print(self._render())
        text = captured.get().rstrip("\n")
        self._lines = [cell_len(line) for line in _STYLES.sub("", text).split("\n")]
        return text

    def _erase(self) -> str:
        """Return what moves to the start of the block and clears it, also after the terminal became narrower."""
        if not self._lines:
            return ""
        columns = self._console.width
        rows = sum(max(1, -(-width // columns)) for width in self._lines)
        self._lines = []
        return "\r" + (f"\x1b[{rows - 1}A" if rows > 1 else "") + "\x1b[J"

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
