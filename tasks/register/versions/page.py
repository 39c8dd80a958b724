"""Render the page of a model's versions: their metrics as a drawing and a table, and a comparison of two of them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dataops.redaction import redact
from tasks.register.versions.comparison import VersionComparison
from tasks.register.versions.history import VersionRow, draw_versions, list_metrics, table_rows
from tasks.reports.page import encode_page, render, shorten

VALUE_LENGTH = 200
"""Maximum number of characters that are shown of a setting."""


def render_versions(
    title: str, rows: Sequence[VersionRow], alias: str, comparison: VersionComparison | None, note: str
) -> bytes:
    """Return the HTML page.

    Args:
        rows: versions, oldest first; none for a page that only compares two.
        alias: its version is drawn in another colour.
        comparison: of two versions; None if there is only one.
        note: a sentence below the title.
    """
    table = table_rows(rows)
    names = list_metrics(rows)
    tables = [
        {"columns": columns, "rows": [[row[name] for name in columns] for row in table]}
        for columns in (["version", "alias", "registered", *names], ["version", "dataset", "changed", "gate"])
    ]
    page = render(
        "versions.html",
        title=title,
        note=note,
        drawing=draw_versions(rows, alias) if rows else None,
        tables=tables,
        metrics=range(3, 3 + len(names)),
        comparison=comparison and replace(comparison, stages=[_with_shares(row) for row in comparison.stages]),
        settings=list_settings(comparison) if comparison else [],
    )
    return encode_page(page)


def _with_shares(row: dict[str, Any]) -> dict[str, Any]:
    shares = {
        f"{side}_share": row[f"{side}_kept"] / row[f"{side}_input"] if row[f"{side}_input"] else None for side in "ab"
    }
    return row | shares


def list_settings(comparison: VersionComparison) -> list[list[str]]:
    """Return the rows of the table of settings: name, value in A, value in B."""
    return [[name, *(format_setting(value) for value in values)] for name, values in comparison.settings.items()]


def format_setting(value: Any) -> str:
    """Return a setting as people read it, without credentials, and not longer than VALUE_LENGTH."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shorten(redact(text), VALUE_LENGTH)
