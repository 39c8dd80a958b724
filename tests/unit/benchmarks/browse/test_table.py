"""The table of seconds in docs/browse.md."""

from pathlib import Path

import pytest

from benchmarks.browse import table
from benchmarks.browse.cases import Result
from benchmarks.browse.table import BEGIN, END, replace_table


def test_table_replaces_the_one_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = table.PAGE.read_text("utf-8")
    assert page.index(BEGIN) < page.index(END)
    monkeypatch.setattr(table, "PAGE", tmp_path / "browse.md")
    (tmp_path / "browse.md").write_text(f"before\n{BEGIN}old\n{END}after\n")
    seconds = {"open": 2.5, "filter": 0.25, "map, once": 12.0}
    found = Result(seconds=seconds, cpu_seconds=dict.fromkeys(seconds, 0.5))
    for _ in range(2):
        replace_table(found, 1_000_000)
    text = (tmp_path / "browse.md").read_text("utf-8")
    assert "old" not in text
    assert text.startswith(f"before\n{BEGIN}\n1,000,000 rows on ")
    assert text.endswith(
        "| open, with the first page | 2.50 s | 0.50 s | 3 s |\n| two filters | 0.25 s | 0.50 s | 1 s |\n"
        f"| the map of the features, once a start | 12.00 s | 0.50 s |  |\n\n{END}after\n"
    )
