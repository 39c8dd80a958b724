"""The lines at the bottom of a terminal: erased before they are drawn again, also after the terminal became narrower."""

import io

from rich.console import Console
from rich.text import Text

from flows.terminal_block import TerminalBlock


def block(width: int = 40) -> tuple[TerminalBlock, Console, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    return TerminalBlock(console, lambda: Text("a" * 30 + "\n" + "b" * 10)), console, out


def test_lines_are_printed_above_the_block():
    drawn, _, out = block()
    drawn.print_above(Text("first"))
    drawn.print_above(Text("second"))
    picture = "a" * 30 + "\n" + "b" * 10
    assert out.getvalue() == f"first\n{picture}\r\x1b[1A\x1b[Jsecond\n{picture}"


def test_a_narrower_terminal_shows_a_line_in_several_rows_which_are_all_erased():
    drawn, console, out = block()
    drawn.print_above(Text("first"))
    console.width = 12  # the terminal has wrapped 30 columns into three rows
    drawn.print_above(Text("x"))
    assert "\r\x1b[3A\x1b[Jx\n" in out.getvalue()


def test_the_block_is_erased_at_its_end():
    drawn, _, out = block()
    with drawn:
        drawn.print_above(Text("first"))
    assert out.getvalue().endswith("\r\x1b[1A\x1b[J")


def test_a_frozen_block_stays_and_nothing_is_drawn_over_what_follows():
    drawn, _, out = block()
    with drawn:
        drawn.print_above(Text("first"))
        assert drawn.freeze()
        before = out.getvalue()
    drawn.print_above(Text("stopped"))
    assert out.getvalue() == before + "stopped\n"
