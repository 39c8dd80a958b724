"""Format the HTML of the site: page frame, image tags, and the different styles of a URL."""

import html
import posixpath
from collections.abc import Sequence
from html.entities import codepoint2name
from typing import Literal

HOST = "openmoji.pairmill.test"
BASE_URL = f"http://{HOST}"
"""`.test` is reserved (RFC 2606), so the name never resolves on the internet; URLs have no port."""

UrlStyle = Literal["relative", "root", "absolute", "protocol"]
URL_STYLES: tuple[UrlStyle, ...] = ("relative", "root", "absolute", "protocol")

STYLE_SHEET = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 0 1rem 3rem; color: #1d2433 }
header { display: flex; gap: 1rem; align-items: baseline; border-bottom: 1px solid #d8dee9; padding: 1rem 0 }
header a { color: inherit; font-weight: 600; text-decoration: none }
nav, .pager { display: flex; flex-wrap: wrap; gap: .4rem 1rem; margin: 1rem 0 }
a { color: #1463b8 }
h1 { font-size: 1.6rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: 1rem; padding: 0; margin: 0 }
.grid > * { list-style: none; margin: 0; padding: .6rem; text-align: center; background: #f6f8fb; border-radius: .5rem }
.grid img { width: 72px; height: 72px }
figcaption, .name { font-size: .8rem; color: #4c566a; overflow-wrap: anywhere }
footer { margin-top: 2rem; font-size: .8rem; color: #4c566a }
.banner { width: 100%; height: auto }
"""

CREDIT = (
    'All emojis designed by <a href="https://openmoji.org/">OpenMoji</a> – the open-source emoji and icon project. '
    'License: <a href="https://creativecommons.org/licenses/by-sa/4.0/">CC BY-SA 4.0</a>'
)


def format_page(title: str, body: str, *, language: str = "en", head: str = "", credit: str = CREDIT) -> str:
    """Return a page; `title` is text, `head`, `body` and `credit` are HTML."""
    direction = ' dir="rtl"' if language in ("ar", "fa") else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{language}"{direction}>\n<head>\n'
        f"<title>{escape(title)}</title>\n{head}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="stylesheet" href="/style.css">\n</head>\n<body>\n'
        f'<header><a href="/">OpenMoji pictures</a></header>\n<main>\n<h1>{escape(title)}</h1>\n'
        f"{body}\n</main>\n<footer>{credit}</footer>\n</body>\n</html>\n"
    )


UTF8_HEAD = '<meta charset="utf-8">\n'


def image_tag(source: str, alt: str | None, *, title: str | None = None, more: str = "") -> str:
    """Return an <img> tag, without the attribute `alt` if it is None; `more` is HTML that is added unchanged."""
    parts = [f'src="{escape(source)}"']
    parts += [] if alt is None else [f'alt="{escape(alt)}"']
    parts += [] if title is None else [f'title="{escape(title)}"']
    return f"<img {' '.join(parts)}{more}>"


def format_url(path: str, page: str, style: UrlStyle) -> str:
    """Return the URL of `path` ("/img/1F600.png") as written on `page` ("/food/2.html") in a style."""
    match style:
        case "relative":
            return posixpath.relpath(path, posixpath.dirname(page))
        case "root":
            return path
        case "absolute":
            return f"{BASE_URL}{path}"
        case "protocol":
            return f"//{HOST}{path}"


def escape(text: str) -> str:
    """Escape text for an element or a double-quoted attribute (& < > " ')."""
    return html.escape(text, quote=True)


def to_entities(text: str) -> str:
    """Write each character that is not plain ASCII, and the first space, as a named or numeric reference."""
    out = []
    for c in text.replace(" ", "\xa0", 1):
        name = codepoint2name.get(ord(c))
        plain = c.isascii() and name is None
        out.append(c if plain and c != "'" else f"&{name};" if name else f"&#x{ord(c):x};")
    return "".join(out)


def format_links(targets: Sequence[tuple[str, str]]) -> str:
    """Return a <nav> of links (URL, text)."""
    return "<nav>" + " ".join(f'<a href="{escape(url)}">{escape(text)}</a>' for url, text in targets) + "</nav>"


def to_slug(text: str) -> str:
    """Convert a title to a folder name: 'Smileys & Emotion' to 'smileys-emotion'."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
