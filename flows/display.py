"""Shows the progress of a run on the terminal and in the Prefect UI. Makes no decision."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context

from rich.console import Console
from rich.text import Text

from dataops.escaping import escape_markdown
from dataops.formatting import format_counts
from dataops.messages.waiting import current_waits
from dataops.redaction import redact
from dataops.snapshot import Manifest
from dataops.stages import STAGES
from flows import interruption
from flows.artefacts import RunArtefacts
from flows.progress_line import ProgressBlock, StageProgress
from flows.terminal_block import TerminalBlock
from tasks.engine.context import IS_PROGRESS

logger = logging.getLogger(__name__)
for _package in (
    "flows",
    "infra",
    "plugins",
    "tasks",
):  # Prefect adds its handlers to these loggers and leaves them at WARNING
    logging.getLogger(_package).setLevel(logging.INFO)

ARTEFACT_SECONDS = 2.0
"""Minimum time between two updates of the progress artefact: each is a request to the Prefect server."""
LINE_SECONDS = (10.0, 60.0)
"""Time after which a log gets the first line about a stage, and the longest time between two."""
WAIT_LINE_SECONDS = 2.0
"""Minimum time between a line and the next one about another wait."""


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


class _AboveBlock(logging.Handler):
    """Prints warnings above the progress of a terminal."""

    def __init__(self, block: TerminalBlock):
        super().__init__(logging.WARNING)
        self._block = block
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self._block.print_above(Text(self.format(record)))


class RunDisplay:
    """Shows the progress of one run."""

    def __init__(self, artefacts: RunArtefacts):
        self._artefacts = artefacts
        self._progress = StageProgress("")
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._updated = 0.0

    @property
    def _on_terminal(self) -> bool:
        return sys.stderr.isatty() and not self._console.is_dumb_terminal

    @contextmanager
    def watch(self, stage: str) -> Iterator[None]:
        """Show the stage's progress and waits while it runs: a block on a terminal, else lines in the log."""
        self._progress, self._updated = StageProgress(stage), 0.0
        with self._show_block() if self._on_terminal else self._log_lines():
            yield

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

    def progress(self, done: float, total: int, line: str) -> None:
        """Show that `done` of `total` are finished; the stage calls it, with a line about what it does or reached."""
        self._progress.update(done, total, line)
        logger.debug("%s", line)
        now = time.monotonic()
        if now - self._updated < ARTEFACT_SECONDS and done < total:
            return
        self._updated = now
        percent, stage = 100.0 * done / max(total, 1), self._progress.stage
        texts = [self._progress.format_done(), self._progress.format_left(), escape_markdown(redact(line))]
        number = f"stage {STAGES.index(stage) + 1} of {len(STAGES)}, " if stage in STAGES else ""
        self._artefacts.update_progress(percent, f"{number}{stage}: {', '.join(filter(None, texts))}")

    def log_stage(self, manifest: Manifest, state: str, seconds: float) -> None:
        """Log one line about a finished stage: its key, state, time and counts."""
        counts = manifest.counts
        reasons = format_counts(sorted(counts.dropped.items(), key=lambda item: (-item[1], item[0])))
        kept = f"kept {counts.kept:,} of {counts.input:,}" if counts.input else ""
        kept += f" ({reasons})" if reasons else ""
        if self._on_terminal:
            line = Text(f"{manifest.stage:<9} {state.lower():<9} {seconds:>7.1f} s  {kept}".rstrip())
            self._console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        with _quiet_console() if self._on_terminal else nullcontext():
            detail = f": {kept}" if kept else ""
            logger.info("%s %s %s in %.1f s%s", manifest.stage, manifest.key, state.lower(), seconds, detail)
