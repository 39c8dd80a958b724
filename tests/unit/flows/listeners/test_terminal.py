"""The progress of a stage, as a terminal of any width and a log show it."""

import io

from rich.console import Console

from flows.listeners.progress import StageProgress
from flows.listeners.terminal import ProgressBlock


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def progress_of(stage, *updates):
    clock = Clock()
    progress = StageProgress(stage, clock)
    for clock.now, done, total, line in updates:
        progress.update(done, total, line)
    return progress


def render(progress, width, waits=(), now=0.0):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, no_color=True)
    console.print(ProgressBlock(progress, waits, now))
    return out.getvalue().splitlines()


def test_no_control_codes_come_from_the_line_of_a_stage():
    progress = progress_of("filter", (1.0, 1, 2, "\x1b[31mred\nforged"))
    assert not {"\x1b", "\n"} & set("".join(render(progress, 80)))
