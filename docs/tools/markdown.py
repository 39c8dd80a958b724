"""Format Markdown tables."""

import re
import textwrap
from collections.abc import Iterable, Sequence


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table that ends with a newline."""
    lines = [heads, ["---"] * len(heads), *([_escape_cell(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape_html(text: str) -> str:
    """Escape `<` outside of code spans, where Markdown would read an HTML element."""
    return "".join(
        piece if piece.startswith("`") else piece.replace("<", "&lt;") for piece in re.split(r"(`[^`]*`)", text)
    )


def fill(text: str, indent: str = "") -> str:
    """Wrap a paragraph at 100 characters, never inside a word; later lines begin with `indent`."""
    words = " ".join(text.split())
    return textwrap.fill(words, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _escape_cell(text: str) -> str:
    return escape_html(" ".join(text.split()).replace("|", "\\|"))
