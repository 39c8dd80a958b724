"""Every template shows hostile text as text: no new element, attribute or URL, and no evaluation of the text."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser

from dataops.escaping import escape_controls
from dataops.home import CHECKOUT
from dataops.snapshot import Counts
from tasks.reports.page import Section, make_link, render, render_document

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
Values = dict[str, Any]


def section(text: str) -> Section:
    return Section(text, [text], [text, text], [[text, text], [text, "1"]], numbers=(1,))


def filter_values(text: str) -> Values:
    balance = {
        "pairs": 4, "unmatched": 1, "kept": 3, "seen": 2, "queries_found": 1, "queries": 2, "matches_before": 3,
        "matches_after": 2, "effective_before": 1, "effective_after": 1, "unmatched_examples": [text, text],
        "head": [[text, 3, 2.0]], "languages": [{
            "language": text, "queries": 2, "queries_found": 1, "max_per_query": 7, "tail_share": None,
            "matches_before": 3, "matches_after": 2,
        }],
    }  # fmt: skip
    return {
        "title": text, "counts": Counts(input=9, kept=4, dropped={text: 5}), "most_dropped": 5, "balance": balance,
        "steps": [{"name": text, "dropped": 5, "left": 4}], "config": {"mode": text, "max_per_query": 7},
        "reasons": [{"name": text, "dropped": 5, "alone": 6, "examples": [text, text]}], "languages": {text: 1, "": 2},
        "hosts": {f"{text}{n}": 1 for n in range(22)}, "captions": {text: 1}, "curve": [[1, 9, 4]],
        "lengths": {text: 2},
    }  # fmt: skip


def image(text: str, preview: str = "aGk=") -> Values:
    return {"caption": text, "url": text, "preview": preview, "drop_reason": text, "size": text}


def download_values(text: str) -> Values:
    row = {"url": text, "error_message": text}
    return {
        "title": text, "counts": Counts(input=9, kept=4, dropped={text: 5}), "bytes": 1, "shards": 2,
        "reasons": [{"name": text, "dropped": 5, "examples": [row, row]}],
        "hosts": [{"name": text, "failed": 1, "rows": 2, "reasons": [(text, 1), (text, 2)]}],
        "kept": [image(text)], "dropped": [image(text), image(text, "")],
    }  # fmt: skip


def dataset_values(text: str) -> Values:
    side = {
        "stage": text, "kept": 1, "input": 2, "kept_rows": [image(text)], "reasons": {text: 1}, "with_images": True,
        "has_examples": True, "dropped_rows": {text: [image(text, "")]},
    }  # fmt: skip
    return {
        "title": text, "key": text, "headline": text, "seed": 0, "digest": text, "kept": [image(text)], "sources": text,
        "hide_dropped": True, "stages": stages(text),
        "sides": [side, side | {"with_images": False}, side | {"has_examples": False}],
        "rankings": [(text, text, {text: 1})], "histograms": [(text, text, {text: 2})],
        "limits": [text, f"`{text}` is code"], "rights": [text, f"a word `{text}`"], "readers": [(text, text)],
        "citation": text, "recipe": [(text, text, text)],
        "license_titles": [text, text, "pairs", "share"], "license_rows": [(text, text, "4", "9%")],
        "source_rows": [{
            "name": text, "kind": text, "license": text, "files": 1, "extracted": 9, "filtered": 5, "pairs": 4,
            "share": "9%",
        }],
    }  # fmt: skip


def stages(text: str) -> list[Values]:
    return [{"stage": text, "input": 9, "kept": 4, "dropped": 5, "reasons": {text: 3, f"{text}2": 2}}]


def evaluation_values(text: str) -> Values:
    score = {"task": text, "metric": text, "value": 0.5, "low": 0.4, "high": 0.6, "chance": None, "n": 9, "other": 0.1}
    comparison = {"difference": 0.1, "low": 0.0, "high": 0.2, "verdict": text}
    figure = {"key": text, "preview": "aGk=", "label": text}
    gallery = {"title": text, "figures": [figure | {"miss": None}, figure | {"miss": text, "preview": None}]}
    return {
        "title": text, "side": 112, "average": {"value": None, "tasks": 1, "missing": {text: text}}, "against": text,
        "rows": [score | {"comparison": comparison}, score | {"comparison": None}],
        "overlap": {"clean": [text, text], "sets": 2, "rows": [[text] * 10]},
        "tasks": [{"name": text, "summary": text, "sections": [section(text)], "galleries": [gallery]}],
    }  # fmt: skip


def card_values(text: str) -> Values:
    return {
        "headline": text, "description": text, "links": "", "space": "",
        "sections": [section(text), Section(text, rows=[[make_link(text, "a.html"), text]], columns=[text, text])],
    }  # fmt: skip


def summary_values(text: str) -> Values:
    field = {
        "name": "provider", "label": text, "who": text, "is_optional": False, "is_pending": False, "state": "filled",
        "verdict": "Yes", "text": [text, f"`{text}` is code"], "stated": [text], "columns": [text, "pairs"],
        "rows": [[text, text]], "numbers": [1],
    }  # fmt: skip
    states = [
        {"state": "open"},
        {"state": "open", "is_optional": True},
        {"is_pending": True},
        {"state": "not_applicable"},
    ]
    return {
        "title": text, "law": text, "counts": text, "since": text,
        "open": [{"section": text, "label": text, "field": "provider", "who": text}],
        "changes": [{"section": text, "label": text, "before": [text], "now": [text]}],
        "sections": [
            {"title": text, "level": 2, "fields": [field, *(field | state for state in states)]},
            {"title": text, "level": 3, "fields": []},
        ],
    }  # fmt: skip


PAGES: dict[str, Callable[[str], Values]] = {
    "filter.html": filter_values,
    "download.html": download_values,
    "dataset.html": dataset_values,
    "evaluation.html": evaluation_values,
    "summary.html": summary_values,
    "document.html": lambda text: {"title": text, "text": text},
}
FRAGMENTS: dict[str, Callable[[str], Values]] = {
    "checks.html": lambda text: {"note": text, "rows": [[text, text, text]]},
}
"""Sections that are inserted into a page."""
MARKDOWN: dict[str, Callable[[str], Values]] = {
    "dataset.md": dataset_values,
    "card.md": card_values,
    "summary.md": summary_values,
}


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Return each element with its attributes, without those that the length of a text changes."""
    root = LexborHTMLParser(page).root
    assert root is not None
    found = [(node.tag or "", node.attributes) for node in root.traverse(include_text=False)]
    return [(tag, {name: value for name, value in attributes.items() if name != "style"}) for tag, attributes in found]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("template", PAGES | FRAGMENTS)
def test_page_shows_hostile_text_as_text(template: str, text: str) -> None:
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
def test_page_runs_and_fetches_nothing(template: str) -> None:
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
def test_markdown_shows_hostile_text_as_text(template: str, text: str) -> None:
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    hostile, harmless = (elements(markdown.render(render(template, **MARKDOWN[template](t)))) for t in (text, HARMLESS))
    assert [(tag, attributes.keys()) for tag, attributes in hostile] == [(tag, a.keys()) for tag, a in harmless]


def test_reports_are_imported_without_jinja() -> None:
    modules = "tasks.filter.report, tasks.download.report, tasks.pack.card, tasks.register.card"
    code = f"import sys, {modules}; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


def test_a_document_is_shown_as_a_page_without_the_html_in_it() -> None:
    text = "a <b>bold</b>\n\n| a | b |\n|:--|--:|\n| <img src=x> | [x](javascript:alert(1)) [y](y.html) |\n"
    page = LexborHTMLParser(render_document("t", text))
    assert [node.attributes.get("href") for node in page.css("a")] == ["y.html"]
    assert not page.css("img, b")
    assert [(node.parent and node.parent.attributes.get("class")) for node in page.css("table")] == ["scroll"]
