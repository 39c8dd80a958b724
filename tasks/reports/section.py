"""A section of a report as plain values, which the HTML page and its Markdown twin show alike."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table."""

    title: str
    sentences: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    numbers: Collection[int] = ()
    """Indices of the columns that hold numbers."""
