"""Render the templates of `templates/`: HTML pages of one file each, and documents in Markdown, also as pages.

Every value is escaped for its context, with control characters spelt out. No template of HTML marks
a value as safe, and a page fetches and runs nothing.
"""

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataops.escaping import escape_controls, escape_markdown
from dataops.formatting import format_interval, format_percent, format_quantity, format_share

if TYPE_CHECKING:
    from jinja2 import Environment

T = TypeVar("T")

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A section of a report as plain values, for pages and documents: a heading, sentences, and a table."""

    title: str
    sentences: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    numbers: Collection[int] = ()
    """Indices of the columns that hold numbers."""


def render(template: str | Path, **values: Any) -> str:
    """Return the text of a template, which names the values that it needs: one of `templates/`, or a plugin's file.

    Raises: jinja2.UndefinedError where a value is missing.
    """
    environment = _environment(is_markdown=str(template).endswith(".md"))
    if isinstance(template, Path):
        return environment.from_string(template.read_text("utf-8")).render(values)
    return environment.get_template(template).render(values)


def make_link(title: str, url: str) -> str:
    """Return a link for a template of Markdown, which does not escape it again.

    Args:
        url: quoted already.
    """
    from markupsafe import Markup

    return Markup(f"[{escape_markdown(title)}]({url})")


def render_document(title: str, text: str) -> str:
    """Return a Markdown document as a page. HTML in it is shown as text; each table scrolls where it is too wide."""
    from markdown_it import MarkdownIt  # as above
    from markupsafe import Markup

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>")
    return render("document.html", title=title, text=Markup(markdown.render(text)))


def encode_page(page: str) -> bytes:
    """Return a page as UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
    return page.encode("utf-8", "replace")


@cache
def _environment(*, is_markdown: bool) -> "Environment":
    """Return the templates with their filters. HTML is escaped by Jinja, Markdown by `_escape_markdown`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # worker processes start without it

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=not is_markdown,
        finalize=_escape_markdown if is_markdown else _spell_out,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "in_code": _escape_code,
        "interval": format_interval,
        "keep_code": _keep_code,
        "number": lambda value: f"{value:,}",
        "percent": format_percent,
        "quantity": format_quantity,
        "shorten": shorten,
    }
    environment.globals |= {"share": format_share}
    return environment


def _spell_out(value: object) -> Any:
    """Return a value with its control characters spelt out; None is shown as nothing, and markup stays as it is."""
    return value if hasattr(value, "__html__") else "" if value is None else escape_controls(str(value))


def _escape_markdown(value: object) -> Any:
    return value if hasattr(value, "__html__") else "" if value is None else escape_markdown(str(value))


def _escape_code(value: str) -> Any:
    """Return a value for a Markdown code block, without the three back quotes that would end it."""
    from markupsafe import Markup

    return Markup(escape_controls(value).replace("```", "'''"))


def _keep_code(sentence: str) -> Any:
    """Return a sentence for Markdown: escaped, except for what stands between two back quotes."""
    from markupsafe import Markup

    parts = sentence.split("`")
    if len(parts) % 2 == 0 or "``" in sentence:  # a code span that is open, or that has back quotes in it
        return _escape_markdown(sentence)
    parts[::2] = (" ".join(map(escape_markdown, part.split(" "))) for part in parts[::2])
    parts[1::2] = (" ".join(escape_controls(part).split()) for part in parts[1::2])
    return Markup("`".join(parts))


def shorten(value: object, limit: int = 90) -> str:
    """Return the beginning of a value, of at most `limit` characters."""
    text = "" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def label_steps(counts: Mapping[str, int], step: float, last: int | None = None) -> dict[str, int]:
    """Return a histogram by the range of each step, in order.

    Args:
        counts: by the number of the step.
        step: its size.
        last: the step that holds all larger values too.
    """
    ordered = sorted((int(number), count) for number, count in counts.items() if number)
    return {
        f"{step * n:g} and more" if n == last else f"{step * n:g} to {step * (n + 1):g}": count for n, count in ordered
    }


PARTS = 12
"""Number of parts of a snapshot that examples are taken from."""


def evenly_spaced(parts: Sequence[T]) -> Sequence[T]:
    """Return at most PARTS of them, evenly among all."""
    return parts[:: -(-len(parts) // PARTS) or 1]


def gallery_rows(rows: Iterable[Mapping[str, Any]], *, show_reason: bool = True) -> list[dict[str, object]]:
    """Return the values that the gallery shows of each row.

    Args:
        rows: with `caption` and `preview` (a JPEG, or None); perhaps `url`, `drop_reason`, `width` and `height` in the
            shard, else `original_width` and `original_height`.
        show_reason: whether the drop reason stands below the image.
    """
    return [
        {
            "caption": row["caption"],
            "url": row.get("url"),
            "preview": base64.b64encode(row["preview"]).decode() if row["preview"] else "",
            "drop_reason": row.get("drop_reason") if show_reason else None,
            "size": _format_size(row, "") or _format_size(row, "original_"),
        }
        for row in rows
    ]


def _format_size(row: Mapping[str, Any], kind: str) -> str:
    return f"{row[f'{kind}width']:,} × {row[f'{kind}height']:,}" if row.get(f"{kind}width") else ""
