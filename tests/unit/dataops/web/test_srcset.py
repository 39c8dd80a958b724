"""The regular expressions of parse_srcset against the algorithm of the HTML Standard."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from dataops.web.image_urls import parse_srcset

SPACE = "\t\n\f\r "


def parse_by_standard(text):
    """Parse a srcset by the steps of section 4.8.4.3.10."""
    found, at = [], 0
    while True:
        while at < len(text) and text[at] in SPACE + ",":
            at += 1
        if at >= len(text):
            return found
        url = ""
        while at < len(text) and text[at] not in SPACE:
            url, at = url + text[at], at + 1
        descriptors = []
        if url.endswith(","):
            url = url.rstrip(",")
        else:
            current, state = "", "in descriptor"
            while at < len(text) and text[at] in SPACE:
                at += 1
            while True:
                c = text[at] if at < len(text) else ""
                at += 1
                if state == "in descriptor":
                    if c and c in SPACE:
                        if current:
                            descriptors.append(current)
                            current, state = "", "after descriptor"
                    elif c in (",", ""):
                        descriptors += [current] if current else []
                        break
                    else:
                        current += c
                        state = "in parens" if c == "(" else state
                elif state == "in parens":
                    if not c:
                        descriptors.append(current)
                        break
                    current += c
                    state = "in descriptor" if c == ")" else state
                elif not c:
                    break
                elif c not in SPACE:
                    state, at = "in descriptor", at - 1
        if candidate := parse_descriptors(url, descriptors):
            found.append(candidate)


def parse_descriptors(url, descriptors):
    width = density = height = None
    for text in descriptors:
        if re.fullmatch(r"\d+w", text):
            if width is not None or density is not None or int(text[:-1]) == 0:
                return None
            width = int(text[:-1])
        elif re.fullmatch(r"-?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?x", text):
            if width is not None or density is not None or height is not None or float(text[:-1]) < 0:
                return None
            density = float(text[:-1])
        elif re.fullmatch(r"\d+h", text):
            if height is not None or density is not None or int(text[:-1]) == 0:
                return None
            height = int(text[:-1])
        else:
            return None
    if height is not None and width is None:
        return None
    return url, width or 0, 1.0 if density is None else density, height


PIECES = [
    ",",
    " ",
    "\n",
    "a.jpg",
    "b,c.jpg",
    "1x",
    "2.5x",
    ".5x",
    "-1x",
    "0x",
    "1e2x",
    "100w",
    "0w",
    "50h",
    "(",
    ")",
    "x",
    "\x0b",
    "data:,x",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
@example(["a.jpg 300w, b.jpg 600w 400h"])
@example(["a.jpg,b.jpg 2x"])
@example(["a.jpg, b.jpg 2x"])
@example(["/w_200,h_100/a.jpg 1x,/w_400,h_200/a.jpg 2x"])
@example(["a.jpg 1x 2x, b.jpg 3q, c.jpg"])
@example([" , ,"])
def test_parse_srcset_equals_the_standard_for_any_text(pieces):
    text = "".join(pieces)
    assert parse_srcset(text) == parse_by_standard(text)
