"""Write the generated reference pages into docs/reference/: python -m docs.tools.reference."""

import sys
from collections.abc import Callable
from pathlib import Path

from dataops.home import CHECKOUT
from docs.tools import columns_page, commands_page, config_page, drop_reasons_page, exit_codes_page

PAGES: dict[str, Callable[[], str]] = {
    "config.md": config_page.render,
    "commands.md": commands_page.render,
    "columns.md": columns_page.render,
    "drop-reasons.md": drop_reasons_page.render,
    "exit-codes.md": exit_codes_page.render,
}
"""The renderer of each generated page."""
_NOTE = "<!-- Written by `make docs-reference` from the code; do not edit it here. -->\n\n"


def render_page(name: str) -> str:
    """Return the text of a generated page."""
    return _NOTE + PAGES[name]()


def main() -> None:
    """Write all pages, and name those that changed."""
    for name in PAGES:
        path, text = Path(CHECKOUT) / "docs" / "reference" / name, render_page(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(CHECKOUT)}\n")


if __name__ == "__main__":
    main()
