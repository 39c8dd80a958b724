"""The progress of a stage, as a terminal of any width and a log show it."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dataops.messages.waiting import Wait
from flows.listeners.progress import StageProgress
from flows.listeners.terminal import LineRhythm, ProgressBlock, TerminalBlock


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def progress_of(stage: str, *updates: tuple[float, float, int, str]) -> StageProgress:
    clock = Clock()
    progress = StageProgress(stage, clock)
    for clock.now, done, total, line in updates:
        progress.update(done, total, line)
    return progress


def render(progress: StageProgress, width: int, waits: tuple[Wait, ...] = (), now: float = 0.0) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, no_color=True)
    console.print(ProgressBlock(progress, waits, now))
    return out.getvalue().splitlines()


TRAINING = progress_of(
    "train",
    (0.0, 0, 598, ""),
    (10.0, 25, 598, "loss 4.4121, 31 samples/s, recall 3.1%, scale 14.3, gradient 5.44, lr 2.92e-04, wait 0%"),
)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_block_has_two_lines_that_fit_the_terminal(width):
    lines = render(TRAINING, width)
    assert len(lines) == 2
    assert max(map(cell_len, lines)) < width


def test_a_training_shows_steps_loss_rate_and_time_left_on_80_columns():
    head, detail = render(TRAINING, 80)
    assert head.startswith("train     ━")
    assert head.endswith("25/598 steps  2.5/s  ETA 3:49  0:10")
    assert detail.startswith("          loss 4.4121, 31 samples/s, recall 3.1%")
    assert detail.endswith("…")


def test_no_control_codes_come_from_the_line_of_a_stage():
    progress = progress_of("filter", (1.0, 1, 2, "\x1b[31mred\nforged"))
    assert not {"\x1b", "\n"} & set("".join(render(progress, 80)))


def test_the_rate_is_of_the_last_minute_and_begins_anew_with_another_total():
    progress = progress_of("extract", (0.0, 0, 100, ""), (100.0, 10, 100, ""), (160.0, 70, 100, ""))
    assert progress.rate == 1.0
    assert progress.seconds_left == 30.0
    progress.update(0, 5, "")
    assert progress.rate is None
    slow = progress_of("evaluate", (0.0, 0, 4, ""), (120.0, 1, 4, ""))
    assert slow.format_rate() == "0.5/min"


def test_waits_are_shown_only_while_nothing_goes_on_and_one_of_each_reason():
    progress = progress_of("download", (0.0, 0, 100, ""), (10.0, 40, 100, ""))
    waits = [Wait("a.example asks to wait", 1.0, until=60.0)] * 3 + [Wait("b.example asks to wait", 2.0, until=60.0)]
    waits.append(Wait("too short to be shown", 11.0))
    assert progress.select_waits(waits, 11.0) == []
    progress = progress_of("download", (0.0, 0, 100, ""), (10.0, 40, 100, ""), (13.0, 40, 100, ""))
    assert [wait.reason[:9] for wait in progress.select_waits(waits, 12.0)] == ["a.example", "b.example"]


def test_no_time_left_is_estimated_from_the_first_unit_of_much_work():
    first = [(0.0, 0.0, 592, ""), (60.0, 1.0, 592, "")]
    assert progress_of("download", *first).describe([], 0.0) == "download: 1/592 images (0%), 1.0/min"
    assert progress_of("download", *first, (61.0, 2.0, 592, ""), (62.0, 3.0, 592, "")).format_left().startswith("ETA")
    assert progress_of("download", *first, (61.0, 7.0, 592, "")).format_left().startswith("ETA")


def test_resumed_work_does_not_count_as_speed():
    progress = progress_of("download", (0.0, 9000, 10_000, ""), (10.0, 9100, 10_000, ""))
    assert (progress.rate, progress.seconds_left) == (10.0, 90.0)


def test_lines_of_a_log_become_rarer_and_a_new_wait_has_one_at_once():
    rhythm = LineRhythm()
    assert [second for second in range(200) if rhythm.is_due(second, "")] == [10, 30, 70, 130, 190]
    rhythm = LineRhythm()
    due = [second for second in range(100) if rhythm.is_due(second, "the store" if second >= 23 else "")]
    assert due == [10, 23, 33, 53, 93]


def test_no_colour_is_used_where_the_environment_forbids_it(monkeypatch):
    def draw() -> str:
        out = io.StringIO()
        Console(file=out, width=80, force_terminal=True, color_system="standard").print(
            ProgressBlock(TRAINING, (), 0.0)
        )
        return out.getvalue()

    assert "\x1b[32m" in draw()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in draw()


def terminal_block(width: int = 40) -> tuple[TerminalBlock, Console, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    return TerminalBlock(console, lambda: Text("a" * 30 + "\n" + "b" * 10)), console, out


def test_lines_are_printed_above_the_block():
    drawn, _, out = terminal_block()
    drawn.print_above(Text("first"))
    drawn.print_above(Text("second"))
    picture = "a" * 30 + "\n" + "b" * 10
    assert out.getvalue() == f"first\n{picture}\r\x1b[1A\x1b[Jsecond\n{picture}"


def test_a_narrower_terminal_shows_a_line_in_several_rows_which_are_all_erased():
    drawn, console, out = terminal_block()
    drawn.print_above(Text("first"))
    console.width = 12  # the terminal has wrapped 30 columns into three rows
    drawn.print_above(Text("x"))
    assert "\r\x1b[3A\x1b[Jx\n" in out.getvalue()


def test_the_block_is_erased_at_its_end():
    drawn, _, out = terminal_block()
    with drawn:
        drawn.print_above(Text("first"))
    assert out.getvalue().endswith("\r\x1b[1A\x1b[J")


def test_a_frozen_block_stays_and_nothing_is_drawn_over_what_follows():
    drawn, _, out = terminal_block()
    with drawn:
        drawn.print_above(Text("first"))
        assert drawn.freeze()
        before = out.getvalue()
    drawn.print_above(Text("stopped"))
    assert out.getvalue() == before + "stopped\n"
