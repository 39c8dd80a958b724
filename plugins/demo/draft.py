"""Collect the files of a site under construction, and the server's rules."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from plugins.demo.pages import URL_STYLES, UTF8_HEAD, UrlStyle, format_page
from plugins.demo.server import RULES_FILE


@dataclass
class SiteDraft:
    """A site under construction. Paths start with '/'; the page of a folder is its index.html."""

    files: dict[str, bytes] = field(default_factory=dict)
    pages: list[str] = field(default_factory=list)
    """Paths of the HTML pages, in the order in which they were added."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Target URL of a 302 response, by path."""
    content_types: dict[str, str] = field(default_factory=dict)
    """Content-Type that differs from that of the extension, by path."""
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Response headers, by prefix of the path."""

    def add_page(self, path: str, html: str | bytes) -> None:
        """Add a page; text is encoded as UTF-8."""
        self.files[path] = html.encode() if isinstance(html, str) else html
        self.pages.append(path)

    def add_document(self, path: str, title: str, body: str, *, head: str = UTF8_HEAD, **more: str) -> None:
        """Add a page that `pages.format_page` formats."""
        self.add_page(path, format_page(title, body, head=head, **more))

    def next_style(self) -> UrlStyle:
        """Return the URL style of the next page; the styles take turns."""
        return URL_STYLES[len(self.pages) % len(URL_STYLES)]

    def write(self, directory: Path) -> None:
        """Write all files and the rules to `directory`."""
        rules = {"redirects": self.redirects, "content_types": self.content_types, "headers": self.headers}
        text = json.dumps(rules, indent=1, sort_keys=True) + "\n"
        for path, content in {**self.files, f"/{RULES_FILE}": text.encode()}.items():
            file = directory / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
