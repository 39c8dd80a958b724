"""A site while it is being put together: files by path, the server's rules, and a count of what is odd about it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from tasks.demo.pages import BASE_URL, URL_STYLES, UTF8_HEAD, UrlStyle, format_page

RULES_FILE = "site-rules.json"


@dataclass
class SiteDraft:
    """What a builder adds to. Paths start with '/'; a folder's page is its index.html."""

    files: dict[str, bytes] = field(default_factory=dict)
    pages: list[str] = field(default_factory=list)
    """Paths of the HTML pages, in the order in which they were added."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Path to the address that a 302 answer names."""
    content_types: dict[str, str] = field(default_factory=dict)
    """Path to a Content-Type other than its extension's."""
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Path prefix to response headers."""
    oddities: dict[str, list[str]] = field(default_factory=dict)
    """Kind to the addresses (as resolved, or as written where they don't resolve) that it applies to."""

    def add_page(self, path: str, html: str | bytes) -> None:
        """Adds a page; text is written as UTF-8."""
        self.files[path] = html.encode() if isinstance(html, str) else html
        self.pages.append(path)

    def add_document(self, path: str, title: str, body: str, *, language: str = "en", head: str = UTF8_HEAD) -> None:
        """Adds a page made by `pages.document`."""
        self.add_page(path, format_page(title, body, language=language, head=head))

    def note(self, kind: str, *paths: str) -> None:
        """Counts an oddity: a path on this site, or an address written out."""
        urls = [f"{BASE_URL}{path}" if path.startswith("/") else path for path in paths]
        self.oddities.setdefault(kind, []).extend(urls)

    def next_style(self) -> UrlStyle:
        """The address style of the next page: they take turns."""
        return URL_STYLES[len(self.pages) % len(URL_STYLES)]

    def write(self, directory: Path) -> None:
        """Writes all files and the rules below `directory`."""
        rules = {"redirects": self.redirects, "content_types": self.content_types, "headers": self.headers}
        text = json.dumps(rules, indent=1, sort_keys=True) + "\n"
        for path, content in {**self.files, f"/{RULES_FILE}": text.encode()}.items():
            file = directory / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
