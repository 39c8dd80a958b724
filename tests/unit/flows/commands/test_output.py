"""Tables never cut a cell off: rows that do not fit the terminal are printed as blocks."""

from typing import Any

import pytest

from flows.commands.output import WIDTH, console, new_table


@pytest.mark.parametrize("length", [WIDTH - 20, WIDTH - 10, WIDTH, 3 * WIDTH])
def test_a_row_that_does_not_fit_is_a_block_with_whole_cells(capsys: Any, length: int):
    table = new_table("Runs", "run", "state", "why")
    url = "http://127.0.0.1/" + "x" * (length - 17)
    table.add_row("demo-1", url, "a reason " * 20)
    console().print(table)
    out = capsys.readouterr().out
    assert url in out
    assert "…" not in out
    assert " ".join(out.split()).count("a reason") == 20
    assert (f"state: {url}" in out) == (length + len("demo-1") + 20 + 4 > WIDTH)
    assert out.startswith("Runs\n")


def test_a_column_whose_name_has_two_lines_is_as_wide_as_the_longer_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten names of 16 characters fit in two lines of 8; of thirteen, each is a part of the row's block, on one line."""
    names = [f"task-{n:02d}\nscore-{n:02d}" for n in range(13)]
    for count, last_line in ((10, "1 " + "0.5 " * 10), (13, "task-12 score-12: 0.5")):
        table = new_table("Scores", "version", *names[:count], right=names)
        table.add_row("1", *["0.5"] * count)
        console().print(table)
        assert last_line.split() == capsys.readouterr().out.splitlines()[-1].split()[-len(last_line.split()) :]
