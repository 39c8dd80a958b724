import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops.web.image_urls import LAZY_SRC, LAZY_SRCSET, choose_reference, parse_length
from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs

PAGE = "http://h.example/p/"
BOUNDS = PageBounds(caption=200, url=300)
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


def found(html: str) -> list[tuple[str, str, str | None]]:
    rows = extract_page_pairs(html.encode(), PAGE, BOUNDS).pairs
    return [(row.url.removeprefix(PAGE), row.caption, row.reason) for row in rows]


IMAGES = {
    "srcset": ('<img src=s.jpg srcset="m.jpg 500w, l.jpg 1000w, s.jpg 250w" alt=a>', "l.jpg"),
    "densities": ('<img src=s.jpg srcset="m.jpg 2x, l.jpg 3x" alt=a>', "l.jpg"),
    "commas in URLs": ('<img src=s.jpg srcset="/w_1,h_2/m.jpg 100w, /w_2,h_4/l.jpg 200w" alt=a>', "http://h.example/w_2,h_4/l.jpg"),
    "a placeholder in srcset": (f'<img src=s.jpg srcset="{PIXEL} 1w" alt=a>', "s.jpg"),
    "lazy": (f'<img src="{PIXEL}" data-src=l.jpg alt=a>', "l.jpg"),
    "lazy before a placeholder image": ("<img src=/img/blank.gif data-original=l.jpg alt=a>", "l.jpg"),
    "lazy srcset": (f'<img src="{PIXEL}" srcset="{PIXEL}" data-srcset="m.jpg 300w, l.jpg 900w" data-src=s.jpg alt=a>', "l.jpg"),  # noqa: E501
    "low quality first": ('<img src=s.jpg srcset="s.jpg 20w" data-srcset="l.jpg 10w" alt=a>', "l.jpg"),
    "lazy without src": ("<img data-lazy-src=l.jpg alt=a>", "l.jpg"),
    "a lazy attribute without a URL": ('<img src=s.jpg data-src="" data-lazy=true alt=a>', "s.jpg"),
    "a template that a script fills": ('<img src=s.jpg data-src="x_{width}.jpg" alt=a>', "s.jpg"),
    "a template as the only URL": ("<img src=x_{guid}.jpg alt=a>", "x_%7Bguid%7D.jpg"),
    "picture": ('<picture><source srcset="l.webp 900w, m.webp 300w" type=image/webp><img src=s.jpg alt=a></picture>', "l.webp"),  # noqa: E501
    "picture of types that are not decoded": (
        "<picture><source srcset='l.jxl 900w' type=image/jxl><source srcset='x.svg 1000w'><img src=s.jpg alt=a></picture>",
        "s.jpg",
    ),
    "picture of equal sizes": ("<picture><source srcset=o.webp><img src=s.jpg alt=a></picture>", "s.jpg"),
    "picture for print and for dark mode": (
        '<picture><source media="print" srcset="p.jpg 9w"><source media="(prefers-color-scheme: dark)" srcset="d.jpg 9w">'
        "<img src=s.jpg alt=a></picture>",
        "s.jpg",
    ),
    "picture with one for each width": (
        '<picture><source media="(min-width: 9px)" srcset="w.jpg 900w"><source srcset="n.jpg 300w"><img src=s.jpg alt=a></picture>',  # noqa: E501
        "w.jpg",
    ),
    "lazy picture": (f"<picture><source data-srcset='l.jpg 2x'><img src='{PIXEL}' data-src=s.jpg alt=a></picture>", "l.jpg"),  # noqa: E501
    "sources of something else": ("<video><source srcset='v.jpg 9w' src=v.mp4></video><img src=s.jpg alt=a><picture></picture>", "s.jpg"),  # noqa: E501
    "amp": ("<amp-img src=s.jpg srcset='l.jpg 2x' alt=a></amp-img>", "l.jpg"),
    "an old spelling": ("<image src=s.jpg alt=a>", "s.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_choose_reference_returns_the_largest_usable_url(name: str):
    html, url = IMAGES[name]
    assert found(html) == [(url, "a", None)]


def test_choose_reference_keeps_the_reason_without_a_usable_url():
    assert found(f'<img src="{PIXEL}" data-src="{PIXEL}" alt=a>') == [(PIXEL[:64], "a", "data_url")]
    assert found("<img srcset='  ' alt=a>") == [("", "a", "no_url")]


NOSCRIPT = {
    "the same image": (
        f"<img src='{PIXEL}' data-src=l.jpg alt=a><noscript><img src=l.jpg alt=a></noscript>",
        ["l.jpg"],
    ),
    "before": (f"<p><noscript><img src=l.jpg alt=a></noscript> <img src='{PIXEL}' data-src=l.jpg alt=a>", ["l.jpg"]),
    "a smaller image": ("<a><img data-src=l.jpg alt=a></a>\n<noscript><img src=s.jpg alt=a></noscript>", ["l.jpg"]),
    "the only image": ("<p>x</p><noscript><img src=s.jpg alt=a></noscript>", ["s.jpg"]),
    "of an image with an unknown lazy attribute": (
        f"<img src='{PIXEL}' data-odd=l.jpg alt=a><noscript><img src=s.jpg alt=a></noscript>",
        [PIXEL[:64], "s.jpg"],
    ),
    "in the head": (
        "<head><noscript><img src=s.jpg alt=a></noscript><base href=/q/></head>",
        ["http://h.example/q/s.jpg"],
    ),
}


@pytest.mark.parametrize("name", NOSCRIPT)
def test_extract_page_pairs_ignores_the_noscript_fallback_of_a_lazy_image(name: str):
    html, urls = NOSCRIPT[name]
    assert [row[0] for row in found(html)] == urls


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("width=300 height=200", (300, 200)),
        ("width='300px' height=' 200.5 '", (300, 200)),
        ("width=100% height=auto", (None, None)),
        ("width=-5 height=99999999", (None, None)),
        ("width=1 height=1", (1, 1)),
        ("width=300 height=200 srcset='l.jpg 900w'", (900, 600)),
        ("srcset='l.jpg 900w 500h'", (900, 500)),
        ("width=300 srcset='l.jpg 900w'", (900, None)),
        ("width=300 height=200 srcset='l.jpg 2x'", (300, 200)),
    ],
)
def test_choose_reference_returns_the_declared_size_of_the_chosen_url(attributes: str, size: tuple):
    [row] = extract_page_pairs(f"<img src=a.jpg alt=a {attributes}>".encode(), PAGE, BOUNDS).pairs
    assert (row.declared_width, row.declared_height) == size


def usable(reference: str) -> bool:
    """Return whether a reference may be an image, without the fast path."""
    path = re.split("[?#]", reference)[0]
    words = ("true", "false", "none", "null", "undefined", "lazy", "")
    starts = ("#", "data:", "blob:", "about:", "javascript:", "[", "{")
    if reference.strip().lower() in words or reference.lstrip().lower().startswith(starts):
        return False
    kinds = r"[.](svgz?|jxl|hei[cf]|jp2|ico|mp4|webm)([?#]|\Z)"
    return not re.search(kinds, reference, re.I) and not re.search("[{}]|%7b", path, re.I)


def choose_by_rule(
    image: dict[str, str | None], sources: list[dict[str, str | None]]
) -> tuple[str, int | None, int | None]:
    """Choose the largest image of the lazy-load attributes, else of the plain ones."""
    width, height = parse_length(image.get("width")), parse_length(image.get("height"))
    for names in ((*LAZY_SRCSET, *LAZY_SRC), ("srcset", "src")):
        candidates: list[tuple[int, float, str]] = []
        for element in (image, *sources):
            for name in names:
                if name in ("srcset", *LAZY_SRCSET):
                    for url, number, unit in re.findall(r"(?:^|, )(\S+) (\d+)([wx])", element.get(name) or ""):
                        candidates.append((int(number), 1, url) if unit == "w" else (0, int(number), url))
                elif text := element.get(name):
                    candidates.append((0, 1, text))
        if candidates := [candidate for candidate in candidates if usable(candidate[2])]:
            own, _, url = max(candidates, key=lambda candidate: candidate[:2])
            return (
                (url, own, round(own * height / width) if width and height else None) if own else (url, width, height)
            )
    return image.get("src") or "", width, height


REFERENCES = st.sampled_from(
    [
        *(
            "a.jpg",
            "/b/c.JPEG?w=3",
            "https://h.example/d.svg?x=.jpg",
            "e.jpg?f={g}",
            "%7Bh.png",
            "i.PNG#j",
            "k.mp4",
            "m",
        ),
        *("http://h.example/l.heic", "#.jpg", "[n].jpg", "o.svg/p.webp", "javascript:q.jpg", "r.gif?s.ico", PIXEL),
    ]
)
SRCSETS = st.lists(st.tuples(REFERENCES, st.sampled_from(["1x", "2x", "90w", "300w"])), max_size=3).map(
    lambda candidates: ", ".join(f"{url} {size}" for url, size in candidates)
)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("src", "data-src", "data-original"), REFERENCES | st.sampled_from(["", " ", "lazy", None])),
        **dict.fromkeys(("srcset", "data-srcset"), SRCSETS),
        **dict.fromkeys(("width", "height"), st.sampled_from(["", "30", "40px", "50%", "0", None])),
    },
)


@settings(max_examples=500)
@given(ATTRIBUTES, st.lists(ATTRIBUTES, max_size=2))
def test_choose_reference_equals_the_rule_for_any_attributes(
    image: dict[str, str | None], sources: list[dict[str, str | None]]
):
    assert choose_reference(image, sources) == choose_by_rule(image, sources)
