"""Any page costs time that grows no faster than its size: worst cases of each part of the extraction."""

import itertools
import time
from collections import defaultdict
from contextlib import suppress
from importlib.util import find_spec

import pytest

from dataops.web.captions import normalise_caption
from dataops.web.charsets import convert_to_utf8
from dataops.web.markup import MAX_ATTRIBUTES, MAX_DEPTH, BadPage, Reader, hash_name, read_markup
from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs

SIZE = 240_000
MAX_SECONDS = 2
"""CPU time of a page of SIZE bytes. Each of these pages takes at most a tenth; before, the worst took minutes."""
URL, BOUNDS = "http://site.example/shop/item", PageBounds(caption=2000, url=4096)
IMAGE = "<img src=a alt=b>"


def nested(opening, closing, size, depth, inner=""):
    """Return blocks of nested elements, of about `size` bytes together."""
    depth = min(depth, max(1, size // len(opening + closing)))
    block = opening * depth + inner + closing * depth
    return block * max(1, size // len(block))


def deep(opening, n, rest, depth=4500):
    """Return open elements, and `rest` repeated up to n bytes."""
    return IMAGE + opening * min(depth, n // (2 * len(opening))) + rest * (n // 2 // len(rest))


def numbered(pattern, n):
    return "".join(pattern.replace("#", str(i)) for i in range(n // len(pattern)))


def colliding(n):
    """Return elements whose names have one slot in the table of names, and many more of the last name."""
    by_slot = defaultdict(list)
    for letters in itertools.product("abcdefghijklmnopqrstuvwxyz0123456789", repeat=3):
        value = hash_name(name := "z" + "".join(letters))
        by_slot[(value ^ (value >> 29)) % (1 << 14)].append(name)
    slots = sorted(by_slot, key=lambda slot: len(by_slot[slot]))[-600:]
    names = [name for slot in slots for name in by_slot[slot]]
    return IMAGE + "".join(f"<{name}></{name}>" for name in names) + f"<{names[-1]}></{names[-1]}>" * (n // 11)


FAMILIES = {
    "nested figures": lambda n: nested("<figure><img src=a>", "</figure>", n, 2200) + "<figcaption>x",
    "nested figures around elements": lambda n: (
        "<figure><img src=a>" * 1000 + "<i></i>" * (n // 9) + "</figure>" * 1000 + "<figcaption>x</figcaption>"
    ),
    "nested figures with captions": lambda n: nested(
        "<figure><img src=a>", "<figcaption>x</figcaption></figure>", n, 2200
    ),
    "nested figcaptions": lambda n: nested("<figure><img src=a><figcaption>", "</figcaption></figure>", n, 2200, "x"),
    "nested figcaptions around text": lambda n: "<figure><img src=a><figcaption>" * 1000 + "x " * (n // 2),
    "images of one figure": lambda n: "<figure>" + "<img src=a>" * (n // 11) + "<figcaption>x</figcaption>",
    "figcaptions of one figure": lambda n: "<figure>" + IMAGE + "<figcaption>x</figcaption>" * (n // 26),
    "nested labels": lambda n: (
        numbered("<div id=a#>", 33_000) + numbered("<img src=a aria-labelledby='a# a#0 a1#'>", n)
    ),
    "nested labels around text": lambda n: (
        numbered("<div id=a#>", 33_000)
        + "x " * (n // 4)
        + "</div>" * 3000
        + numbered("<img aria-labelledby=a#>", n // 2)
    ),
    "one long aria-labelledby": lambda n: "<img src=a aria-labelledby='" + numbered(" x#", n // 2) + "'>",
    "labels of one id": lambda n: "<p id=a>x</p>" * (n // 26) + "<img src=a aria-labelledby=a>" * (n // 58),
    "nested noscripts": lambda n: nested("<noscript><img src=a>", "</noscript>", n, 2200),
    "nested noscripts around images": lambda n: "<noscript>" * 2000 + "<img src=a>" * (n // 12),
    "noscripts beside nested elements": lambda n: "<div><noscript><img src=a></noscript>" * 1000 + "<i></i>" * (n // 9),
    "noscripts after nested elements": lambda n: nested("<div>", "</div><noscript><img src=a></noscript>", n, 4000),
    "noscripts between comments": lambda n: "<noscript><img src=a></noscript><!----><!---->" * (n // 46),
    "sources of many images": lambda n: (
        ("<picture><source srcset='" + "b 2w," * 200 + "'>" + "<img src=a>" * 62 + "</picture>") * (n // 1700)
    ),
    "attributes of sources of many images": lambda n: (
        (f"<picture><source {numbered(' a#', 900)}>" + "<img src=a>" * 62 + "</picture>") * (n // 2000)
    ),
    "srcset": lambda n: "<img src=a srcset='" + "b 2w," * (n // 5) + "'>",
    "srcset without descriptors": lambda n: "<img src=a srcset='" + "b, " * (n // 3) + "'>",
    "srcset of commas": lambda n: "<img src=a srcset='" + "," * n + "'>",
    "srcset of parentheses": lambda n: "<img src=a srcset='" + "a (," * (n // 4) + "'>",
    "srcset of spaces": lambda n: "<img src=a srcset='a" + " " * n + "x'>",
    "srcset of digits": lambda n: "<img src=a srcset='a " + "1" * n + "'>",
    "width of spaces": lambda n: "<img src=a alt=b width='1" + " " * n + "y'>",
    "width of digits": lambda n: "<img src=a alt=b width='" + "1" * n + "y'>",
    "attributes of one tag": lambda n: f"<img src=a alt=b {numbered(' a#', n // 2)}>",
    "as many attributes as one tag may have": lambda n: (
        f"<img src=a {numbered(' a#', 3 * MAX_ATTRIBUTES)}>" + IMAGE * (n // 20)
    ),
    "wide tags": lambda n: f"<img src=a alt=b {numbered(' a#', 3000)}>" * (n // 6000),
    "attributes of body": lambda n: IMAGE + numbered("<body a#>", n),
    "attributes of html": lambda n: IMAGE + numbered("<html a#>", n),
    "lazy attributes": lambda n: "<img data-src=a data-lazy-src=b data-srcset='c 1w,d 2w' src=e>" * (n // 62),
    "nested anchors": lambda n: "<a href=b><img src=a alt=c>" * (n // 27),
    "nested licences": lambda n: nested("<div><a rel=license href=/l></a><img src=a>", "</div>", n, 2000),
    "a licence, deep images": lambda n: "<a rel=license href=/l></a>" + nested("<div><img src=a>", "</div>", n, 2000),
    "licences": lambda n: IMAGE + "<a rel=license href=/l></a>" * (n // 27),
    "metas": lambda n: IMAGE + "<meta name=robots content=noai>" * (n // 31),
    "directives": lambda n: IMAGE + "<meta name=robots content='" + "a," * (n // 2) + "'>",
    "names of robots": lambda n: IMAGE + "<meta content=noai name='" + "bot-" * (n // 4) + "!'>",
    "preview images": lambda n: numbered("<meta property=og:image content=/#.jpg>", n),
    "alts of a preview image": lambda n: (
        "<meta property=og:image content=/a.jpg>" + numbered("<meta property=og:image:alt content=x#>", n)
    ),
    "bases": lambda n: "<base href=/b/>" * (n // 15) + IMAGE,
    "titles": lambda n: IMAGE + "<title>x</title>" * (n // 16),
    "one long base": lambda n: "<base href='/" + "b/" * (n // 2) + "'>" + IMAGE,
    "references to folders above": lambda n: "".join(
        f"<img src='{'../' * (i * 61 % 1300)}a'>" for i in range(n // 1970)
    ),
    "one long reference": lambda n: "<img src='" + "/%2e%2e" * (n // 7) + "'>",
    "international hosts": lambda n: "".join(f"<img src='http://{'é' * 300}{i}.com/a'>" for i in range(n // 630)),
    "a reference of credentials": lambda n: "<img src='ftp:" + "//a@" * (n // 4) + "'>",
    "a reference of spaces": lambda n: "<img src='" + " " * n + "a'>",
    "templates of scripts": lambda n: "<img srcset='" + "a%7x" * (n // 4) + "'>",
    "one long alt": lambda n: "<img src=a alt='" + "x " * (n // 2) + "'>",
    "combining marks": lambda n: ("<img src=a alt='x" + "\u0301\u0316" * 3000 + "'>") * (n // 12_000),
    "zero-width characters": lambda n: "<img src=a alt='" + "\u200b" * (n // 3) + "'>",
    "character references": lambda n: "<img src=a alt='" + "&amp;" * (n // 5) + "'>",
    "false ends in depth": lambda n: deep("<span>", n, "</b>"),
    "false ends of paragraphs in depth": lambda n: deep("<span>", n, "</p>"),
    "list items in depth": lambda n: deep("<span>", n, "<li>"),
    "blocks in depth": lambda n: deep("<span>", n, "<div></div>"),
    "formatting": lambda n: IMAGE + "<b>" * 200 + "<p>" * (n // 3),
    "formatting over blocks": lambda n: deep("<div>", n, "<b><div></b></div>"),
    "formatting over paragraphs": lambda n: IMAGE + "<b><p></b>" * (n // 10),
    "tables": lambda n: nested("<table><tr><td><img src=a alt=b>", "</table>", n, 1000),
    "text in tables": lambda n: IMAGE + "<table>" + "x<tr>" * (n // 5),
    "split text": lambda n: "<figure><img src=a><figcaption>" + "x</q>" * (n // 5),
    "options": lambda n: IMAGE + "<select>" + "<option>x" * (n // 9),
    "drawings": lambda n: IMAGE + nested("<svg><g>", "</g></svg>", n, 2000),
    "comments": lambda n: IMAGE + "<!--" * (n // 4),
    "quotes": lambda n: IMAGE + "<a b='" * (n // 6),
    "ends in a script": lambda n: IMAGE + "<script>" + "</scrip" * (n // 7),
    "names with one slot": colliding,
}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Compile before the tests, so that compilation does not count as their time."""
    extract_page_pairs(b"<img>", URL, BOUNDS)


def cost(html):
    """Return the seconds of CPU time in which this thread decodes and reads a page for pairs and links, or refuses it."""
    start = time.thread_time()
    convert_to_utf8(html, None)
    with suppress(BadPage):
        extract_page_pairs(html, URL, BOUNDS)
    if find_spec("plugins"):
        from plugins.crawl.links import extract_links

        with suppress(BadPage):
            extract_links(html, URL, "pairmill", 4096)
    return time.thread_time() - start


@pytest.mark.parametrize("name", FAMILIES)
def test_page_costs_time_that_grows_no_faster_than_its_size(name):
    small, large = (FAMILIES[name](size) for size in (SIZE // 4, SIZE))
    assert SIZE / 4 < len(large) < 2 * SIZE
    quarter, whole = cost(small.encode()), cost(large.encode())
    assert whole < MAX_SECONDS
    assert whole < 16 * quarter + MAX_SECONDS / 5


def test_read_markup_refuses_pages_whose_tags_cost_the_parser_many_steps():
    for html in ("<span>" * 4000 + "</b>" * 200_000, "<body a>" + numbered("<body b#>", 300_000)):
        with pytest.raises(BadPage):
            read_markup(html.encode(), Reader.PAIRS)
    read_markup(("<span>" * 4000 + "</b>" * 2000).encode(), Reader.PAIRS)
    read_markup(("<div>" * (MAX_DEPTH - 1) + "<body a=b>" * 3).encode(), Reader.PAIRS)


def test_normalise_caption_limits_the_marks_of_one_character():
    assert normalise_caption("e\u0301" + "\u0316\u0301" * 40, 200) == "é" + "\u0316" * 15 + "\u0301" * 14
    assert normalise_caption("e\u0301 \u0301\u0316", 200) == "é \u0316\u0301"
