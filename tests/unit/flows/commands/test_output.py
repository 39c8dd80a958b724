"""Tables never cut a cell off: rows that do not fit the terminal are printed as blocks."""

import pytest

from flows.commands.output import WIDTH, console, new_table


@pytest.mark.parametrize("length", [WIDTH - 20, WIDTH - 10, WIDTH, 3 * WIDTH])
def test_a_row_that_does_not_fit_is_a_block_with_whole_cells(capsys, length):
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
