"""Show the progress of a run on the terminal, or as lines in a log."""

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import copy_context

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from dataops.formatting import format_counts, rank_counts
from dataops.messages.waiting import Wait, current_waits, format_duration
from dataops.redaction import escape_for_display
from dataops.snapshot import Manifest
from flows import interruption
from flows.listeners.base import LiveRun, RunListener, StageEnd
from flows.listeners.progress import StageProgress, describe_waits
from tasks.engine.context import IS_PROGRESS
from tasks.engine.stage import Plan

logger = logging.getLogger(__name__)
LINE_SECONDS = (10.0, 60.0)
"""Time after which a log gets the first line about a stage, and the longest time between two."""
WAIT_LINE_SECONDS = 2.0
"""Minimum time between a line and the next one about another wait."""
REFRESH_SECONDS = 0.25
_STYLES = re.compile(r"\x1b\[[0-9;]*m")
_NUMBERS_WIDTH = 38
"""Columns of the numbers behind the bar, for most stages."""
_BAR = (10, 40)
"""Minimum and maximum width of the bar."""


class LineRhythm:
    """Decides when a log gets a line about a stage: after 10 s, then more and more seldom, and when a wait begins."""

    def __init__(self) -> None:
        self._last, self._interval, self._reason = 0.0, LINE_SECONDS[0], ""

    def is_due(self, seconds: float, reason: str) -> bool:
        """Return whether a line is due.

        Args:
            seconds: age of the stage.
            reason: what is being waited for, or nothing.
        """
        begins = bool(reason) and reason != self._reason and seconds - self._last >= WAIT_LINE_SECONDS
        if not begins and seconds - self._last < self._interval:
            return False
        self._interval = min(LINE_SECONDS[1], LINE_SECONDS[0] if begins else 2 * self._interval)
        self._last, self._reason = seconds, reason
        return True


def _is_no_progress(record: logging.LogRecord) -> bool:
    return not getattr(record, IS_PROGRESS, False)


@contextmanager
def _quiet_console() -> Iterator[None]:
    """Let no handler of the root logger print inside the `with`; Prefect's handlers of other loggers still store all."""
    handlers = [(handler, handler.level) for handler in logging.getLogger().handlers]
    for handler, _ in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in handlers:
            handler.setLevel(level)


class TerminalBlock:
    """Redraws what `render` returns at the bottom of a terminal inside a `with`, and erases it at the end.

    Other lines are printed above it. Rich's Live is not used: it draws over what a signal handler prints, and leaves
    remains when the terminal becomes narrower.

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


class ProgressBlock:
    """Two lines for a terminal of any width: the bar with its numbers, and what the stage reports or waits for."""

    def __init__(self, progress: StageProgress, waits: Sequence[Wait], now: float):
        self.progress, self.waits, self.now = progress, waits, now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - 1
        progress, detail = self.progress, self.progress.line
        numbers = [progress.format_done(), progress.format_rate(), progress.format_left()]
        if self.waits:
            numbers, detail = numbers[:1], describe_waits(self.waits, self.now)
        tail = "  ".join(filter(None, [*numbers, format_duration(progress.seconds)]))
        reserved = max(len(tail), _NUMBERS_WIDTH) if width > 70 else len(tail)  # so that the bar keeps its width
        bar = min(_BAR[1], width - 10 - reserved - 2)
        head = Text(f"{progress.stage:<9} ")
        if bar >= _BAR[0]:
            head += _draw_bar(progress, bar, ascii_only=options.ascii_only) + Text("  ")
        yield _crop(head + Text(tail), width)
        yield _crop(Text(" " * 10 + escape_for_display(detail).replace("\n", " "), style="dim"), width)


def _draw_bar(progress: StageProgress, width: int, *, ascii_only: bool) -> Text:
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    filled = int(width * min(1.0, progress.done / progress.total)) if progress.total else 0
    return Text(full * filled, style="green") + Text(empty * (width - filled), style="dim")


def _crop(line: Text, width: int) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    line.truncate(width, overflow="ellipsis")
    return line


class _AboveBlock(logging.Handler):
    """Prints warnings above the progress of a terminal."""

    def __init__(self, block: TerminalBlock):
        super().__init__(logging.WARNING)
        self._block = block
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self._block.print_above(Text(self.format(record)))


class Terminal(RunListener):
    """Shows the progress and waits of each stage: a block on a terminal, else lines in the log; and a line at its end."""

    order = 10

    def __init__(self, run: LiveRun):
        super().__init__(run)
        self._progress = StageProgress("")
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._shown = ExitStack()

    @property
    def _on_terminal(self) -> bool:
        return sys.stderr.isatty() and not self._console.is_dumb_terminal

    def stage_started(self, planned: Plan) -> None:
        self._progress = StageProgress(planned.stage.name)
        self._shown.enter_context(self._show_block() if self._on_terminal else self._log_lines())

    def progress(self, done: float, total: int, line: str) -> None:
        self._progress.update(done, total, line)
        logger.debug("%s", line)

    def stage_ended(self, end: StageEnd) -> None:
        self._shown.close()
        if end.manifest is not None:
            self._print_end(end, end.manifest)

    @contextmanager
    def _show_block(self) -> Iterator[None]:
        """Refresh two lines at the bottom of the terminal; warnings appear above them, other log lines only in Prefect."""

        def render() -> ProgressBlock:
            now = time.time()
            return ProgressBlock(self._progress, self._progress.select_waits(current_waits(), now), now)

        with TerminalBlock(self._console, render) as block, interruption.freezing(block.freeze), _quiet_console():
            above, root = _AboveBlock(block), logging.getLogger()
            root.addHandler(above)
            try:
                yield
            finally:
                root.removeHandler(above)

    @contextmanager
    def _log_lines(self) -> Iterator[None]:
        """Log a line about the progress at growing intervals, and one when a wait begins."""
        ended, progress = threading.Event(), self._progress

        def log() -> None:
            rhythm = LineRhythm()
            while not ended.wait(1.0):
                now = time.time()
                waits = progress.select_waits(current_waits(), now)
                if rhythm.is_due(progress.seconds, waits[0].reason if waits else ""):
                    logger.info("%s", progress.describe(waits, now))

        # The context has the flow run, without which Prefect would not store the lines.
        thread = threading.Thread(target=copy_context().run, args=(log,), name="progress", daemon=True)
        thread.start()
        handlers = list(logging.getLogger().handlers)
        for handler in handlers:
            handler.addFilter(_is_no_progress)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(_is_no_progress)
            ended.set()
            thread.join(2.0)

    def _print_end(self, end: StageEnd, manifest: Manifest) -> None:
        """Print one line about a finished stage: its key, state, time and counts."""
        counts = manifest.counts
        reasons = format_counts(rank_counts(counts.dropped))
        kept = f"kept {counts.kept:,} of {counts.input:,}" if counts.input else ""
        kept += f" ({reasons})" if reasons else ""
        if self._on_terminal:
            line = Text(f"{manifest.stage:<9} {end.outcome.lower():<9} {end.seconds:>7.1f} s  {kept}".rstrip())
            self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        with _quiet_console() if self._on_terminal else nullcontext():
            detail = f": {kept}" if kept else ""
            logger.info("%s %s %s in %.1f s%s", manifest.stage, manifest.key, end.outcome.lower(), end.seconds, detail)
