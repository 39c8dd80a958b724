"""Output of commands: text and tables on the terminal, or one JSON value. Text from outside is never read as markup."""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataops.command_name import format_message, name_command
from dataops.formatting import format_interval, format_percent
from dataops.messages.waiting import current_waits
from dataops.redaction import escape_for_display
from infra.local.services import ServiceStatus
from tasks.tracking import pages

WIDTH = 110
"""Columns of a table where standard output is no terminal."""
WAIT_SECONDS = 10.0
"""Time between two lines about the same wait."""
WRAPPED = ("dropped because", "by", "why")
"""Table columns that may be wrapped; the cells of all others stay on one line."""
LEAST = 20
"""Columns that a wrapped cell needs."""

LINKED_PAGES = ("config", "dataset", "download report", "filter report")
"""Pages of a run that are not printed."""


_STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""A terminal's command that begins or ends a style."""


class Output(Console):
    """A console that prints strings as they are: no markup, no emoji names, control characters escaped.

    Lines have no trailing spaces: Rich pads the cells of a table's last column.
    """

    def __init__(self, width: int | None = None):
        super().__init__(width=width, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(_escape(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        with self.capture() as captured:
            for table in objects:
                if isinstance(table, Table) and table.title:  # Rich wraps a title to the width of the table
                    super().print(text(str(table.title), "bold"), soft_wrap=True)
                    table.title = None
                if isinstance(table, Table) and _is_wider(table, self.width):
                    self._print_blocks(table)
                else:
                    super().print(table, **options)
            if not objects:
                super().print()
        self.file.write("\n".join(map(_strip_end, captured.get().split("\n"))))
        self.file.flush()

    def write(self, line: str, style: str = "") -> None:
        """Print a line, escaped, which the terminal wraps."""
        self.print(text(line, style), soft_wrap=True)

    def message(self, line: str, style: str = "") -> None:
        """Print a line of our own, which names the command as the user typed it."""
        self.write(name_command(line), style)

    def _print_blocks(self, table: Table) -> None:
        """Print each row as its first cell, and below it the others with the names of their columns, none cut off."""
        names = [str(column.header).replace("\n", " ") for column in table.columns]
        for first, *cells in zip(*(column.cells for column in table.columns), strict=True):
            super().print(str(first), soft_wrap=True)
            line = ""
            for item in (f"{name}: {cell}" for name, cell in zip(names[1:], cells, strict=True) if str(cell)):
                if line and len(line) + len(item) + 2 > self.width:
                    super().print(line, soft_wrap=True)
                    line = ""
                line = f"{line}  {item}"
            super().print(line, soft_wrap=True)


def _is_wider(table: Table, width: int) -> bool:
    """Return whether a table has to cut a cell off."""
    columns = [(str(one.header), [str(one.header), *map(str, one.cells)]) for one in table.columns]
    lengths = [(name, max(cell_len(line) for cell in cells for line in cell.split("\n"))) for name, cells in columns]
    longest = (min(length, LEAST) if name in WRAPPED else length for name, length in lengths)
    return sum(longest) + 2 * (len(columns) - 1) > width


def _strip_end(line: str) -> str:
    """Remove the spaces at the end of a line, also those between the styles that end there."""
    styles = ""
    while (start := (line := line.rstrip(" ")).rfind("\x1b")) >= 0 and _STYLE.fullmatch(line, start):
        line, styles = line[:start], line[start:] + styles
    return line + styles


def _escape(line: str) -> str:
    """Escape a text; blank lines before it stay, since its first line is not indented either."""
    body = line.lstrip("\n")
    return "\n" * (len(line) - len(body)) + escape_for_display(body)


def console(width: int | None = None) -> Output:
    """Return a console for standard output, with colours only on a terminal, whose columns it has by default."""
    return Output(width or (None if sys.stdout.isatty() else WIDTH))


def text(line: str, style: str = "") -> Text:
    """Return a line to print, escaped: text from the web, a store or a server must not control the terminal."""
    return Text(_escape(line), style=style)


def new_table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table without lines; the columns named in `right` are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column not in WRAPPED)
    return table


def first_of(rows: Sequence[Any], most: int) -> Sequence[Any]:
    """Return the first rows, or all if only one more would be left out: a line about it is no shorter."""
    return rows if len(rows) <= most + 1 else rows[:most]


@contextmanager
def print_waits() -> Iterator[None]:
    """Print on standard error what this process waits for inside the `with`, when it begins and every ten seconds."""
    ended = threading.Event()

    def watch() -> None:
        seen: tuple[str, float] = ("", 0.0)
        while not ended.wait(0.5):
            now = time.time()
            wait = next((wait for wait in current_waits() if wait.is_shown(now)), None)
            if wait is not None and (wait.reason != seen[0] or now - seen[1] >= WAIT_SECONDS):
                seen = wait.reason, now
                sys.stderr.write(format_message(f"{escape_for_display(wait.describe(now))}\n"))

    thread = threading.Thread(target=watch, name="waits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def print_json(value: object) -> None:
    """Print one JSON value on one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def score_cells(row: Mapping[str, Any]) -> list[str]:
    """Return the value, its interval, the chance level and n of a score; in per cent, empty where unknown."""
    value, chance = (format_percent(row[name], sign="", missing="") for name in ("value", "chance"))
    interval = format_interval(row["low"], row["high"], sign="", dash=" - ", missing="")
    return [value, interval, chance, f"{row['n']:,}"]


def show_links(links: Mapping[str, str], out: Output) -> None:
    """Print the URLs of pages by name, without those that the page of a version links to as well."""
    for name, link in sorted(links.items()):
        if name not in LINKED_PAGES:
            out.write(f"  {name}: {link}")


def first_page(server: ServiceStatus) -> str:
    """Return the URL of the page of a server to open in a browser; empty if it has none.

    The home page of an MLflow server that is not ours is that for generative AI.
    """
    path = f"/{pages.EXPERIMENTS}" if server.name == "mlflow" and server.ui_url else ""
    return f"{server.ui_url.rstrip('/')}{path}"
