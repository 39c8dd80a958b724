"""Render the templates of `templates/`: HTML pages of one file each, drawings as SVG, and their Markdown twins.

Every value is escaped for its context, with control characters spelt out. No template of HTML or SVG marks
a value as safe, and a page fetches and runs nothing.
"""

from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataops.escaping import escape_controls, escape_markdown
from dataops.formatting import format_interval, format_percent, format_quantity, format_share

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str | Path, **values: object) -> str:
    """Return the text of a template, which names the values that it needs: one of `templates/`, or a plugin's file.

    Raises: jinja2.UndefinedError where a value is missing.
    """
    environment = _environment(is_markdown=str(template).endswith(".md"))
    if isinstance(template, Path):
        return environment.from_string(template.read_text("utf-8")).render(values)
    return environment.get_template(template).render(values)


def encode_page(page: str) -> bytes:
    """Return a page as UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
    return page.encode("utf-8", "replace")


@cache
def _environment(*, is_markdown: bool) -> "Environment":
    """Return the templates with their filters. HTML and SVG are escaped by Jinja, Markdown by `_escape_markdown`."""
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
    if len(parts) % 2 == 0:  # an open code span
        return _escape_markdown(sentence)
    code = (" ".join(escape_controls(part).split()) for part in parts[1::2])
    texts = (" ".join(map(escape_markdown, part.split(" "))) for part in parts[::2])
    return Markup("`".join(part for pair in zip_longest(texts, code) for part in pair if part is not None))


def shorten(value: object, limit: int = 90) -> str:
    """Return the beginning of a value, of at most `limit` characters."""
    text = "" if value is None else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
