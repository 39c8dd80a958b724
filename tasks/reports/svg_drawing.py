"""A drawing of rectangles, lines and texts, as SVG in a page, whose colours it has. Every text is escaped."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """An SVG element with its attributes and its text."""

    tag: str
    attributes: dict[str, Any]
    text: str
    href: str | None = None
    """URL that a click on the element opens."""


@dataclass
class Drawing:
    """Shapes over an area of `width` times `height` units."""

    template: str
    """File of templates/ with the style sheet of this kind of drawing."""
    title: str
    width: float
    height: float
    shapes: list[Shape] = field(default_factory=list)

    def add(self, tag: str, text: str = "", href: str | None = None, **attributes: object) -> None:
        """Add a shape. `class_` is the attribute `class`, `stroke_width` is `stroke-width`; None is left out.

        Floats are rounded to a tenth of a unit. `href` is a relative path, a fragment, or an HTTP URL.
        """
        named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        values = {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in named.items()}
        self.shapes.append(Shape(tag, values, text, href))
