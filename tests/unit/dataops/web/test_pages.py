"""The page extractor against a simple reference, and on hostile pages."""

from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

from dataops.web.markup import MAX_ATTRIBUTES, BadPage
from dataops.web.page_pairs import PageBounds, PagePair
from dataops.web.pages import extract_page_pairs

PAGE = "http://site.example/shop/item"
BOUNDS = PageBounds(caption=200, url=300)


def extract(html):
    found = extract_page_pairs(html.encode(), PAGE, BOUNDS)
    return found.pairs, found.surplus_images


class ReferenceExtractor(HTMLParser):
    """Finds (URL, caption, source) of each image with the parser of the standard library."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.base, self.rows, self.figures, self.caption_depth = PAGE, [], [], 0

    def handle_starttag(self, tag, attrs):
        attributes = dict(reversed(attrs))  # the first of a name counts
        if tag == "base" and self.base == PAGE and attributes.get("href"):
            self.base = urljoin(PAGE, attributes["href"])
        elif tag == "figure":
            self.figures.append({"images": [], "text": "", "seen": False})
        elif tag == "figcaption" and self.figures:
            self.caption_depth = 0 if self.figures[-1]["seen"] else 1
            self.figures[-1]["seen"] = True
        elif tag in ("br", "p", "div") and self.caption_depth:
            self.figures[-1]["text"] += " "
        elif tag == "img":
            url = urljoin(self.base, attributes.get("src") or "")
            row = [url, attributes.get("alt") or "", attributes.get("title") or "", ""]
            self.rows.append(row)
            if self.figures:
                self.figures[-1]["images"].append(row)

    def handle_endtag(self, tag):
        if tag == "figcaption":
            self.caption_depth = 0
        elif tag == "figure" and self.figures:
            figure = self.figures.pop()
            for row in figure["images"]:
                row[3] = figure["text"]

    def handle_data(self, data):
        if self.caption_depth:
            self.figures[-1]["text"] += data

    def found(self):
        sources = ("alt", "title", "figcaption")
        normal = [
            (row[0], source, " ".join(row[i + 1].split())) for row in self.rows for i, source in enumerate(sources)
        ]
        return [(url, text, source) for url, source, text in normal if text]


PAGES = [
    '<img src="a.jpg" alt="A &amp; B &eacute;&#233;&#x1F600;" title=\'it&apos;s\'><IMG SRC=/b.png ALT=plain>',
    '<base href="/i/"><base href="/j/"><img src=a.jpg alt=one><img alt="two words" src="../c.jpg?x=1&amp;y=2">',
    "<figure><img src=1.jpg alt=one><figcaption>The <b>bold</b> cap<i>tion</i><br>two <p>three</p></figcaption></figure>",
    "<figure><figcaption>before</figcaption><img src=1.jpg><img src=2.jpg></figure><img src=3.jpg alt=out>",
    "<figure><figure><img src=1.jpg><figcaption>inner</figcaption></figure><img src=2.jpg></figure>",
    "<!-- <img src=no.jpg alt=no> --><script>'<img src=no.jpg alt=no>'</script><img src=yes.jpg alt='yes > no'>",
    "<table><tr><td><img src=1.jpg alt=cell></table><p><a href=x><img src=2.jpg alt='in\n a\tlink'></a>",
    "<div><img src=1.jpg alt='never closed'><p><img src=2.jpg alt='last one'",
    '<img src=1.jpg alt=first alt=second><img src="1.jpg"alt="no space"/><img/src=2.jpg/alt=odd>',
    "<style>a { content: '<img src=no.jpg alt=no>' }</style><img src=yes.jpg alt=&lt;b&gt;>",
]


@pytest.mark.parametrize("html", PAGES)
def test_extract_page_pairs_equals_the_reference(html):
    reference = ReferenceExtractor()
    reference.feed(html)
    reference.close()
    rows, surplus = extract(html)
    assert [(row.url, row.caption, row.caption_source) for row in rows if row.reason is None] == reference.found()
    assert surplus == 0


@pytest.mark.parametrize(
    "name", ["data-img-url", "data-dejavu-src", "data-inpl-lazy", "data-origin", "data-swap", "data-src-large"]
)
def test_extract_page_pairs_takes_the_url_of_lazy_attributes_of_real_pages(name):
    rows, _ = extract(
        f"<img {name}=/real.jpg alt=a><img src=data:x {name}=/real.jpg alt=a><img src=/p.gif {name}=/real.jpg alt=a>"
    )
    assert [row.url for row in rows] == ["http://site.example/real.jpg"] * 3


def test_extract_page_pairs_returns_the_reason_of_unusable_images():
    html = """<img><img alt="no address"><img src=1.jpg><img src=2.jpg alt=" "><img src="data:x" alt=a title=b>
        <img src="http://h.example:x/" alt=a><img src=3.jpg alt="\ufffe">"""
    assert extract(html)[0] == [
        PagePair("", "", None, "no_url"),
        PagePair("", "no address", "alt", "no_url"),
        PagePair("http://site.example/shop/1.jpg", "", None, "no_caption"),
        PagePair("http://site.example/shop/2.jpg", "", None, "no_caption"),
        PagePair("data:x", "a", "alt", "data_url"),
        PagePair("data:x", "b", "title", "data_url"),
        PagePair("http://h.example:x/", "a", "alt", "bad_url"),
        PagePair("http://site.example/shop/3.jpg", "", None, "no_caption"),
    ]


HOSTILE = {
    "deep": "<div>" * 200_000,
    "deep with false ends": "<span><!--</span>--></b>" * 20_000,
    "reopened": "<p>" + "".join(f"<font color={i}>" for i in range(1000)) + "<p>x" * 30_000,
    "attributes": "<img " + " ".join(f"a{i}" for i in range(MAX_ATTRIBUTES * 20)) + ">",
    "attributes that hold the tag's end": "<img " + " ".join(f'a{i}="<x>"' for i in range(MAX_ATTRIBUTES * 2)) + ">",
    "many wide tags": ("<img " + " ".join(f"a{i}" for i in range(MAX_ATTRIBUTES // 5)) + ">") * 30,
    "deep in a style that is none": "<svg><style>" + "<div>" * 200_000,
    "deep behind a comment's wrong end": "<!-- --!>" + "<div>" * 200_000,
    "more names than there are": "".join(f"<x{i}></x{i}>" for i in range(20_000)),
    "attributes behind a quoted end": '<img x=">" ' + " ".join(f"a{i}" for i in range(MAX_ATTRIBUTES * 20)) + ">",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_extract_page_pairs_refuses_pages_that_would_exhaust_the_parser(name):
    with pytest.raises(BadPage, match="too_complex"):
        extract("<img src=1.jpg>" + HOSTILE[name])


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile before the tests, so that compilation does not count as their time."""
    extract("<img>")


FINE = {
    "unclosed": "<li><p>" * 50_000 + "<img src=1.jpg alt=a>",
    "a long script": "<script>" + "if (i<n) { x = 'y' } " * 50_000 + "</script><img src=1.jpg alt=a>",
    "tags in a script": "<script>" + "'<div><div>'" * 10_000 + "</script><img src=1.jpg alt=a>",
    "many angles": "<" * 200_000 + "<img src=1.jpg alt=a>",
    "many quotes": "<p x=\"'" * 10_000 + "'\"><img src=1.jpg alt=a>",
    "comments": "<!-- <div> -->" * 30_000 + "<img src=1.jpg alt=a>",
    "NULs": "\0" * 1000 + "<img src=1.jpg alt='\0a\0'>",
    "figures": "<figure>" * 4000 + "<img src=1.jpg alt=a>" + "<figcaption>" * 900,
}


@pytest.mark.parametrize("name", FINE)
def test_extract_page_pairs_reads_unusual_pages(name):
    assert ("http://site.example/shop/1.jpg", "a") in [(row.url, row.caption) for row in extract(FINE[name])[0]]
