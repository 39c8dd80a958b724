"""What commands print: no indented first line, no trailing spaces, no control characters from outside."""

import pytest

from flows.commands.output import console, new_table


@pytest.mark.parametrize("colours", [False, True])
def test_lines_of_tables_have_no_trailing_spaces(capsys, monkeypatch, colours):
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
    table = new_table("Runs", "run", "state", "model")
    table.add_row("demo-1", "completed", "models:/demo/1")
    table.add_row("demo-2", "failed", "")
    console().print(table)
    printed = capsys.readouterr().out
    assert ("\x1b" in printed) == colours
    plain = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in printed.splitlines()]
    assert [line for line in plain if line != line.rstrip()] == []
    assert plain[2].split() == ["demo-1", "completed", "models:/demo/1"]


def test_a_title_that_is_wider_than_its_table_stays_on_one_line(capsys):
    table = new_table("Run common-crawl-20261127T074159-f621: completed", "stage", "state")
    table.add_row("extract", "Reused")
    console().print(table)
    assert capsys.readouterr().out.splitlines()[0] == "Run common-crawl-20261127T074159-f621: completed"
