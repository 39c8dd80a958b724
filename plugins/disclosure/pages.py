"""A summary as a page for a browser, and as Markdown."""

from collections.abc import Iterator
from typing import Any

from plugins.disclosure.summary import Summary, count_states, describe_open
from plugins.disclosure.template import FIELDS, SECTIONS, TemplateField
from tasks.reports.page import render


def render_html(summary: Summary) -> str:
    """Return the page for a browser."""
    return render("summary.html", **_values(summary))


def render_markdown(summary: Summary) -> str:
    """Return the same in Markdown."""
    return render("summary.md", **_values(summary))


def _values(summary: Summary) -> dict[str, Any]:
    return {
        "title": f"{summary.title}: {summary.name}",
        "law": summary.law,
        "counts": count_states(summary),
        "sections": list(_list_sections(summary)),
        "open": describe_open(summary.list_open()),
    }


def _list_sections(summary: Summary) -> Iterator[dict[str, Any]]:
    for number, title in SECTIONS:
        fields = [_describe(field, summary) for field in FIELDS if field.section == number]
        heading = f"{number} {title}".strip()
        yield {"title": heading, "level": 2 if "." not in number else 3, "fields": fields}


def _describe(field: TemplateField, summary: Summary) -> dict[str, Any]:
    found = summary.answers[field.name]
    return {
        "is_pending": found.state == "open" and not summary.is_open(field.name),
        "name": field.name,
        "label": field.label,
        "who": field.who,
        "is_optional": field.is_optional,
        "state": found.state,
        "verdict": "" if found.is_yes is None else "Yes" if found.is_yes else "No",
        "text": found.text,
        "stated": found.stated,
        "columns": found.columns,
        "rows": found.rows,
        "numbers": [i for i, name in enumerate(found.columns) if name in _NUMBERS],
    }


_NUMBERS = ("pairs", "share", "share of all pairs", "captions", "images", "content")
"""Names of columns that are aligned at the right."""
