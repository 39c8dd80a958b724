"""Write CSV files in which a spreadsheet program finds no formulas.

Excel, LibreOffice and Google Sheets evaluate a cell that begins with =, +, - or @. Text from the
web may thus send the other cells to a server, or start a program. Source: OWASP, "CSV Injection";
CWE-1236.
"""

from io import BytesIO
from pathlib import Path

import polars as pl

_IGNORED = r"""[\s\p{C}"'`]*"""  # what programs may remove before they look for a formula: spaces, controls, quotes
_FORMULA = r"[=+\-@＝＋－＠]"
_AT_START = rf"^([\t\r\n]|{_IGNORED}{_FORMULA})"
# Programs of many languages expect semicolons: there these characters begin a new cell in spite of the quotes.
_INSIDE = rf"([;\t\r\n]{_IGNORED})({_FORMULA})"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def write_csv(rows: pl.DataFrame, file: Path | BytesIO) -> None:
    """Write a table as CSV with all texts escaped by `escape_formulas`. Raises: OSError."""
    rows.with_columns(escape_formulas(pl.col(pl.String))).write_csv(file)


def escape_formulas(text: pl.Expr) -> pl.Expr:
    """Return texts with a ' before each place where a spreadsheet program may find a formula.

    These are the start of a text that begins with =, +, -, @, a tab or a line end, also after
    spaces, invisible characters or quotes; and each =, +, - or @ that follows a semicolon, tab or
    line end. A text that is a number stays as it is.
    """
    inside = text.str.replace_all(_INSIDE, "${1}'${2}")
    return pl.when(text.str.contains(_NUMBER)).then(text).otherwise(inside.str.replace(_AT_START, "'${1}"))
