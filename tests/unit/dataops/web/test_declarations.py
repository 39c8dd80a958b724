import pytest

from dataops.web.declarations import normalise_meta_name, parse_header_directives
from dataops.web.page_pairs import PageBounds
from dataops.web.pages import ExtractedPage, extract_page_pairs

PAGE = "http://h.example/p/"
IMAGE = "<img src=a.jpg alt=a>"


def read(html: str) -> ExtractedPage:
    return extract_page_pairs(html.encode(), PAGE, PageBounds(caption=40, url=300))


@pytest.mark.parametrize(
    ("root", "language"),
    [
        ("lang=en-US", "en-us"),
        ("xml:lang=es-MX", "es-mx"),
        ("lang=de xml:lang=en", "de"),
        ("lang='' xml:lang=fr", "fr"),
        ("lang=de_AT", "de-at"),
        ("lang=' zh-Hant-TW '", "zh-hant-tw"),
        ("lang='en, fr'", None),
        ("lang='<script>'", None),
        (f"lang={'a' * 40}", None),
        ("", None),
    ],
)
def test_declared_language(root: str, language: str | None):
    assert read(f"<html {root}>{IMAGE}").language == language


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("<meta name=robots content='noindex, NOAI'><meta name=robots content=noimageai>", "noai,noimageai,noindex"),
        ("<meta name=robots content=none>", "noindex"),
        ("<meta name=googlebot content='noindex,noimageindex'>", "noimageindex"),
        ("<meta name=GPTBot content=noai>", "noai"),
        ("<meta name=description content=noai>", None),
        ("<meta name=TDM-Reservation content=1>", "tdm-reservation"),
        ("<meta name=tdm-reservation content=0>", None),
        ("<meta name=robots content='index, max-image-preview:none'>", None),
    ],
)
def test_opt_outs_of_the_page(head: str, told: str | None):
    assert read(f"<head>{head}</head>{IMAGE}").opt_out == told


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        (" OG:Image ", "og:image"),
        ("twitter:card", "twitter:card"),
        ("Robots", "robots"),
        ("tdm-reservation", "tdm-reservation"),
        ("GPTBot", "gptbot"),
        ("x" * 200 + "bot", "x" * 200 + "bot"),
        ("viewport", ""),
        ("description", ""),
    ],
)
def test_names_of_metas_of_which_something_is_made(name: str, counted: str):
    assert normalise_meta_name(name) == counted


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([("x-robots-tag", "noai, noindex")], {"noai", "noindex"}),
        ([("x-robots-tag", "googlebot: noindex, noai")], {"noai"}),
        ([("x-robots-tag", "noindex, otherbot: noimageai")], {"noindex", "noimageai"}),
        ([("x-robots-tag", "*: none")], {"noindex"}),
        (
            [("x-robots-tag", "unavailable_after: 25 Jun 2010 15:00:00 PST"), ("x-robots-tag", "NoImageIndex")],
            {"noimageindex"},
        ),
        ([("tdm-reservation", "1"), ("tdm-policy", "https://h.example/p")], {"tdm-reservation"}),
        ([("server", "noai")], set()),
    ],
)
def test_opt_outs_of_the_response(fields: list, told: set):
    assert parse_header_directives(fields) == told


def test_the_responses_word_counts_as_the_pages():
    pairs = extract_page_pairs(IMAGE.encode(), PAGE, PageBounds(40, 300), frozenset({"noai"}), frozenset({"noai"}))
    assert (pairs.opt_out, [row.reason for row in pairs.pairs]) == ("noai", ["opt_out"])


BY, SA = "https://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/licenses/by-sa/4.0/"
LICENSES = {
    "of the page": (f"<link rel=license href={BY}><p><img src=1.jpg alt=a>", [BY]),
    "a relative one": ("<a rel='nofollow License' href=/terms>t</a><img src=1.jpg alt=a>", ["http://h.example/terms"]),
    "a plain link to Creative Commons": (f"<div><img src=1.jpg alt=a></div><footer><a href={BY}>CC</a></footer>", [BY]),
    "in the figure": (
        f"<footer><a href={SA}>CC</a></footer><figure><img src=1.jpg alt=a><figcaption><a href={BY}>CC</a></figcaption></figure>"  # noqa: E501
        "<img src=2.jpg alt=b>",
        [BY, BY, SA],  # the first of alt and figcaption
    ),
    "in another figure": (f"<figure><a href={BY}>CC</a></figure><figure><img src=1.jpg alt=a></figure>", [None]),
    "in another item": (f"<ul><li><img src=1.jpg alt=a><a href={BY}>CC</a><li><img src=2.jpg alt=b></ul>", [BY, None]),
    "two of them": (f"<p><a href={BY}>a</a> <a href={SA}>b</a></p><img src=1.jpg alt=a>", [None]),
    "two, one of which says so": (
        f"<p><a href={BY}>a</a> <a rel=license href={SA}>b</a></p><img src=1.jpg alt=a>",
        [SA],
    ),
    "not a licence": ("<a href=https://creativecommons.org/about>CC</a><img src=1.jpg alt=a>", [None]),
    "no address": ("<a rel=license href='javascript:x'>CC</a><img src=1.jpg alt=a>", [None]),
}


@pytest.mark.parametrize("name", LICENSES)
def test_the_nearest_licence(name: str):
    html, licenses = LICENSES[name]
    assert [row.license for row in read(html).pairs] == licenses


OG = "<meta property=og:image content=/o.jpg><meta property=og:title content='The title'>"


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        (OG, [("o.jpg", "The title")]),
        (OG + "<meta name=og:description content='What it is'><meta property=og:image:alt content='A dog'>",
         [("o.jpg", "A dog"), ("o.jpg", "The title"), ("o.jpg", "What it is")]),
        (OG + "<meta property=og:image content=/p.jpg><meta property=og:image:alt content='A cat'>",
         [("o.jpg", "The title"), ("p.jpg", "A cat")]),
        (OG + "<meta property=og:image:url content=/o.jpg><meta property=og:description content='The title'>", [("o.jpg", "The title")]),  # noqa: E501
        ("<meta name=twitter:image content=/t.jpg><meta name=twitter:title content=T>", [("t.jpg", "T")]),
        (OG + "<meta name=twitter:image content=/t.jpg>", [("o.jpg", "The title")]),
        ("<meta property=og:image content=/o.jpg>", []),
    ],
)  # fmt: skip
def test_the_image_that_a_page_is_shown_by(head: str, rows: list):
    found = read(f"<head>{head}</head><p>text").pairs
    assert [(row.url.rpartition("/")[2], row.caption) for row in found] == rows
    assert all(row.caption_source == "og" and row.reason is None for row in found)


def test_declared_size_of_the_shared_image():
    size = "<meta property=og:image:width content=1200><meta property=og:image:height content=630>"
    [row] = read(OG + size).pairs
    assert (row.declared_width, row.declared_height) == (1200, 630)


@pytest.mark.parametrize(
    ("html", "rows"),
    [
        ("<img src=a.jpg aria-label='A dog'>", [("aria_label", "A dog")]),
        ("<img src=a.jpg alt='A dog' aria-label='A dog' title='a dog'>", [("alt", "A dog"), ("title", "a dog")]),
        ("<img src=a.jpg aria-labelledby='x y'><p id=y>dog</p><b id=x>A <i>big</i></b>", [("aria_label", "A big dog")]),
        ("<img src=a.jpg aria-labelledby=none>", [(None, "")]),
        ("<figure><img src=a.jpg alt=dog><figcaption>dog</figcaption></figure>", [("alt", "dog")]),
    ],
)
def test_texts_of_an_image(html: str, rows: list):
    assert [(row.caption_source, row.caption) for row in read(html).pairs] == rows
