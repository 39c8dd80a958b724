"""Every template shows hostile text as text: no new element, attribute or URL, and no evaluation of the text."""

import pytest
from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser

from dataops.escaping import escape_controls
from tasks.reports.page import render
from tests.report_pages import FRAGMENTS, MARKDOWN, PAGES

HARMLESS = "harmless"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 7*7 }}{% include 'base.html' %}{# gone #}",
    "</style></title></svg></pre><b>bold",
    "\x00 \x1b[31m \u202e \ud83d",
    "&lt;b&gt; &amp; <!-- x --> ]]>",
    "| [a](javascript:alert(1)) ![i](http://evil.example/p.png) # h",
]
EMBEDDED = "data:image/"


def elements(page):
    """Return each element with its attributes, without those that the length of a text changes."""
    found = [(node.tag or "", node.attributes) for node in LexborHTMLParser(page).css("*")]
    return [(tag, {name: value for name, value in attributes.items() if name != "style"}) for tag, attributes in found]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("template", PAGES | FRAGMENTS)
def test_page_shows_hostile_text_as_text(template, text):
    values = (PAGES | FRAGMENTS)[template]
    page = render(template, **values(text))
    harmless = elements(render(template, **values(HARMLESS)))
    hostile = elements(page)
    assert [tag for tag, _ in hostile] == [tag for tag, _ in harmless]
    for (_, attributes), (tag, expected) in zip(hostile, harmless, strict=True):
        assert attributes.keys() == expected.keys()
        changed = [name for name in attributes if attributes[name] != expected[name]]
        assert changed == [] or (changed, tag) == (["title"], "figure"), "only the tooltip of an image holds text"
    content = LexborHTMLParser(page).html or ""
    assert "49" not in content
    shown = LexborHTMLParser(page).text()
    assert escape_controls(text).splitlines()[0] in shown
    assert not set(shown) & set("\x00\x1b\u202e")


@pytest.mark.parametrize("template", PAGES)
def test_page_runs_and_fetches_nothing(template):
    page = elements(render(template, **PAGES[template](HARMLESS)))
    (policy,) = [a["content"] for tag, a in page if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    has_images = any(tag == "img" for tag, _ in page)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'" + ("; img-src data:" if has_images else "")
    for tag, attributes in page:
        assert tag not in {"script", "link", "iframe", "object", "embed", "form", "base"}
        assert not {name for name in attributes if name.startswith("on") or name in {"action", "srcset"}}
        assert tag == "a" or "href" not in attributes, "only what a reader clicks opens a URL"
        assert (attributes.get("src") or EMBEDDED).startswith(EMBEDDED)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("template", MARKDOWN)
def test_markdown_shows_hostile_text_as_text(template, text):
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    hostile, harmless = (elements(markdown.render(render(template, **MARKDOWN[template](t)))) for t in (text, HARMLESS))
    assert [(tag, attributes.keys()) for tag, attributes in hostile] == [(tag, a.keys()) for tag, a in harmless]


@pytest.mark.parametrize("text", ["```![i](http://evil.example/p.png)`", "under `a```b`<script>` since"])
@pytest.mark.parametrize("template", MARKDOWN)
def test_back_quotes_let_no_markup_through(template, text):
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    page = elements(markdown.render(render(template, **MARKDOWN[template](text))))
    assert not {tag for tag, _ in page} & {"img", "script"}
