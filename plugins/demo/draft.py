"""Collect the files of a site under construction, the server's rules, and the site's oddities."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from plugins.demo.pages import BASE_URL, URL_STYLES, UTF8_HEAD, UrlStyle, format_page
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
    oddities: dict[str, list[str]] = field(default_factory=dict)
    """URLs by kind, as resolved, or as written if they do not resolve."""

    def add_page(self, path: str, html: str | bytes) -> None:
        """Add a page; text is encoded as UTF-8."""
        self.files[path] = html.encode() if isinstance(html, str) else html
        self.pages.append(path)

    def add_document(self, path: str, title: str, body: str, *, head: str = UTF8_HEAD, **more: str) -> None:
        """Add a page that `pages.format_page` formats."""
        self.add_page(path, format_page(title, body, head=head, **more))

    def note(self, kind: str, *paths: str) -> None:
        """Record an oddity by its paths on this site or its URLs."""
        urls = [f"{BASE_URL}{path}" if path.startswith("/") else path for path in paths]
        self.oddities.setdefault(kind, []).extend(urls)

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
