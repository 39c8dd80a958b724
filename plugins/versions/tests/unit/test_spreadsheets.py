"""CSV files in which spreadsheet programs find no formulas."""

import csv
import io
import re

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from plugins.versions.spreadsheets import write_csv

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


@given(st.text(st.sampled_from("=+-@＝＋－＠|;\t\r\n \"'a1.,\u00a0\u200b\ufeff\0"), max_size=12))
def test_no_text_becomes_a_formula(tmp_path_factory, text):
    out = written([text, "next"], tmp_path_factory.getbasetemp())
    assert not [cell for cell in cells(out, ",") if is_formula(cell)]
    assert cells(out, ",")[3].replace("'", "") == text.replace("'", "")
    # Read with semicolons, the quotes do not protect a cell, since the line begins with another one.
    assert not [cell for line in re.split(r"[\r\n]", out) for cell in line.split(";") if is_formula(cell)]
