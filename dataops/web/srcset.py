"""Parses the `srcset` attribute: URLs of one image in several sizes."""

import re
from collections.abc import Iterator

_SPACE = "\t\n\f\r "
_URL = re.compile(rf"[{_SPACE},]*+([^{_SPACE}]+)")
# Matches up to the comma that ends a candidate; commas in parentheses, closed or not, do not end it.
_DESCRIPTORS = re.compile(r"((?:[^,(]++|\([^)]*+\)?+)*+),?")
_TOKEN = re.compile(rf"(?:[^{_SPACE}(]++|\([^)]*+\)?+)+")
_DESCRIPTOR = re.compile(r"(\d{1,9})([wh])|(-?(?:\d{1,9}(?:\.\d{1,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?)x")

# Matches a candidate with one integer of `w` or `x`, as nearly all have; at the first other candidate, all the rest.
_PLAIN = re.compile(
    rf"[{_SPACE},]*+([^{_SPACE}]++)(?<!,)[{_SPACE}]++(?:([1-9]\d{{0,8}})w|(\d{{1,9}})x)[{_SPACE}]*+(?:,|\Z)|(.++)",
    re.DOTALL,
)


SrcsetCandidate = tuple[str, int, float, int | None]
"""A URL with its declared size: width in pixels (`w`; 0 if missing), image pixels per layout pixel (`x`; 1 if missing),
height in pixels (`h`, which browsers parse and ignore)."""


def parse_srcset(text: str) -> list[SrcsetCandidate]:
    """Return the candidates of a srcset in their order, without those with invalid descriptors.

    A URL may contain commas: only a comma at its end, or after its descriptors, ends a candidate.

    Source: the HTML Standard, section 4.8.4.3.10 (parsing a srcset attribute). Unlike there, numbers with more digits than
    any image needs are invalid.
    """
    found: list[SrcsetCandidate] = []
    for url, width, density, rest in _PLAIN.findall(text):
        if width:
            found.append((url, int(width), 1.0, None))
        elif density:
            found.append((url, 0, float(density), None))
        else:
            found += _candidates(rest)
    return found


def _candidates(text: str) -> Iterator[SrcsetCandidate]:
    at = 0
    while url := _URL.match(text, at):
        at = url.end()
        if url[1].endswith(","):
            candidate = url[1].rstrip(","), 0, 1.0, None
        else:
            descriptors = _DESCRIPTORS.match(text, at)
            assert descriptors is not None  # the pattern also matches the empty string
            at = descriptors.end()
            candidate = _parse_descriptors(url[1], _TOKEN.findall(descriptors[1]))
        if candidate:
            yield candidate


def _parse_descriptors(url: str, descriptors: list[str]) -> SrcsetCandidate | None:
    width = height = density = None
    for descriptor in descriptors:
        match = _DESCRIPTOR.fullmatch(descriptor)
        if not match:
            return None
        if match[3]:
            density, repeated = float(match[3]), density is not None
            repeated = repeated or density < 0
        elif match[2] == "w":
            width, repeated = int(match[1]), width is not None
        else:
            height, repeated = int(match[1]), height is not None
        if repeated or width == 0 or height == 0:
            return None
    if (density is not None and (width or height)) or (height and not width):
        return None
    return url, width or 0, 1.0 if density is None else density, height
