"""Text from the web that must be shown as text, and what a browser would see of a page."""

from html.parser import HTMLParser

HOSTILE = "\u202e<script>alert(1)</script> \"x\" 'y' & <img src=x onerror=alert(2)>"
HOSTILE_MARKDOWN = (
    "[x](javascript:alert(1)) ![i](http://evil/p.png) <script>alert(1)</script> | `c` http://evil.org \x1b[2J\n# h"
)


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.attributes = []
        self.text = ""
        self.feed(page)

    @property
    def events(self):
        return [name for name, _ in self.attributes if name.startswith("on")]

    @property
    def addresses(self):
        return [name for name, _ in self.attributes if name in ("src", "href", "action", "data")]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data
