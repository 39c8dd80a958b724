import pytest

from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs

PAGE = "http://h.example/p/"
IMAGE = "<img src=a.jpg alt=a>"


def read(html, opt_out=frozenset()):
    return extract_page_pairs(html.encode(), PAGE, PageBounds(caption=40, url=300), opt_out)


@pytest.mark.parametrize(
    ("head", "directives"),
    [
        ("<meta name=robots content='noindex, NOAI'><meta name=robots content=noimageai>", "noai,noimageai,noindex"),
        ("<meta name=robots content=none>", "noindex"),
        ("<meta name=googlebot content='noindex,noimageindex'>", "noimageindex"),
        ("<meta name=GPTBot content=noai>", "noai"),
        ("<meta name=description content=noai>", None),
        ("<meta name=TDM-Reservation content=1>", "tdm-reservation"),
        ("<meta name=tdm-reservation content=0>", None),
        ("<meta name=robots content='index, max-image-preview:none'>", None),
        ("<meta name=Content-Usage content='train-ai=n, search=y'>", "content-usage"),
        ("<meta http-equiv=content-usage content='train-ai=n'>", "content-usage"),
        ("<meta name=content-signal content='search=yes, ai-train=no'>", "content-signal"),
        ("<meta http-equiv=' Content-Signal ' content='ai-train=no'>", "content-signal"),
        ("<meta name=content-usage content='train-ai=y'><meta name=content-signal content='ai-input=no'>", None),
        ("<meta name=content-signal content='scientific-claims,biotech'>", None),
        (
            "<link rel=license type=application/rsl+xml href=https://a.test/license.xml>",
            "rsl:https://a.test/license.xml",
        ),
        ("<link href='/l.xml' type='Application/RSL+XML' rel='nofollow LICENSE'>", "rsl:http://h.example/l.xml"),
        (
            "<base href=/b/><link rel=license type=application/rsl+xml href='l,1.xml'>",
            "rsl:http://h.example/b/l%2C1.xml",
        ),
        (
            "<meta http-equiv=Link content='</l.xml>; rel=license; type=application/rsl+xml'>",
            "rsl:http://h.example/l.xml",
        ),
        ("<link rel=license type=application/rsl+xml href=' '>", "rsl"),
        ("<link rel=license type=application/rsl+xml href='urn:rsl:1'>", "rsl"),
        ("<link rel=license type=application/rsl+xml>", "rsl"),
        ("<script type=application/rsl+xml><rsl xmlns='https://rslstandard.org/rsl'></rsl></script>", "rsl"),
        ("<link rel=license href=https://a.test/license.xml>", None),
        ("<link rel=alternate type=application/rsl+xml href=/feed.xml>", None),
        ("<meta name=content-usage content='train-ai=n'><meta name=robots content=noai>", "content-usage,noai"),
    ],
)
def test_extract_page_pairs_returns_the_directives_of_the_page(head, directives):
    found = read(f"<head>{head}</head>{IMAGE}<img src=b.jpg>", frozenset({"noai"}))
    assert found.opt_out == directives
    opts_out = "noai" in (directives or "").split(",")
    assert [row.reason for row in found.pairs] == ["opt_out" if opts_out else None, "no_caption"]


def test_extract_page_pairs_applies_the_directives_of_the_response():
    pairs = extract_page_pairs(IMAGE.encode(), PAGE, PageBounds(40, 300), frozenset({"noai"}), frozenset({"noai"}))
    assert (pairs.opt_out, [row.reason for row in pairs.pairs]) == ("noai", ["opt_out"])


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
def test_parse_shared_images_returns_open_graph_or_twitter_images(head, rows):
    found = read(f"<head>{head}</head><p>text").pairs
    assert [(row.url.rpartition("/")[2], row.caption) for row in found] == rows
    assert all(row.caption_source == "og" and row.reason is None for row in found)


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
def test_image_captions_finds_each_text_once(html, rows):
    assert [(row.caption_source, row.caption) for row in read(html).pairs] == rows
