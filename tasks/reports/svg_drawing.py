"""A drawing of rectangles, lines and texts, for pages, SVG files and PNG files. Every text is escaped.

In a page it has the page's colours. An SVG file has its own, for a light and for a dark ground. A PNG has a white ground.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tasks.reports.page import render


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

    def add(self, tag: str, text: str = "", href: str | None = None, **attributes: Any) -> None:
        """Add a shape. `class_` is the attribute `class`, `stroke_width` is `stroke-width`; None is left out.

        Floats are rounded to a tenth of a unit. `href` is a relative path, a fragment, or an HTTP URL.
        """
        named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        values = {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in named.items()}
        self.shapes.append(Shape(tag, values, text, href))

    def svg(self) -> str:
        """Return the drawing as an SVG file."""
        return render(self.template, drawing=self, standalone=True)

    def png(self) -> bytes:
        """Return the drawing as PNG, on white ground; the same drawing gives the same bytes."""
        import matplotlib
        import resvg_py

        fonts = Path(matplotlib.get_data_path()) / "fonts/ttf"  # the same on every machine, also where there is no font
        svg = render(self.template, drawing=self)
        return resvg_py.svg_to_bytes(
            svg_string=re.sub(r"var\([^,(]+, (#[0-9a-f]+)\)", r"\1", svg),  # resvg has no variables
            width=int(2 * self.width),
            background="white",
            skip_system_fonts=True,
            font_dirs=[str(fonts)],
            sans_serif_family="DejaVu Sans",
        )
