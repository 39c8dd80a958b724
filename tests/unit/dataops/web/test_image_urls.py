import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.web.image_urls import LAZY_SRC, LAZY_SRCSET, choose_reference, parse_length
from dataops.web.page_pairs import PageBounds
from dataops.web.pages import extract_page_pairs

PAGE = "http://h.example/p/"
BOUNDS = PageBounds(caption=200, url=300)
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


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
def test_choose_reference_returns_the_declared_size_of_the_chosen_url(attributes, size):
    [row] = extract_page_pairs(f"<img src=a.jpg alt=a {attributes}>".encode(), PAGE, BOUNDS).pairs
    assert (row.declared_width, row.declared_height) == size


def usable(reference):
    """Return whether a reference may be an image, without the fast path."""
    path = re.split("[?#]", reference)[0]
    words = ("true", "false", "none", "null", "undefined", "lazy", "")
    starts = ("#", "data:", "blob:", "about:", "javascript:", "[", "{")
    if reference.strip().lower() in words or reference.lstrip().lower().startswith(starts):
        return False
    kinds = r"[.](svgz?|jxl|hei[cf]|jp2|ico|mp4|webm)([?#]|\Z)"
    return not re.search(kinds, reference, re.I) and not re.search("[{}]|%7b", path, re.I)


def choose_by_rule(image, sources):
    """Choose the largest image of the lazy-load attributes, else of the plain ones."""
    width, height = parse_length(image.get("width")), parse_length(image.get("height"))
    for names in ((*LAZY_SRCSET, *LAZY_SRC), ("srcset", "src")):
        candidates = []
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


@given(ATTRIBUTES, st.lists(ATTRIBUTES, max_size=2))
def test_choose_reference_equals_the_rule_for_any_attributes(image, sources):
    assert choose_reference(image, sources) == choose_by_rule(image, sources)
