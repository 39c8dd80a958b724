"""The `srcset` attribute: addresses of one image in several sizes."""

import re
from collections.abc import Iterator

_SPACE = "\t\n\f\r "
_URL = re.compile(rf"[{_SPACE},]*+([^{_SPACE}]+)")
# To the comma that ends a candidate; one in parentheses, which may lack their end, does not.
_DESCRIPTORS = re.compile(r"((?:[^,(]++|\([^)]*+\)?+)*+),?")
_TOKEN = re.compile(rf"(?:[^{_SPACE}(]++|\([^)]*+\)?+)+")
_DESCRIPTOR = re.compile(r"(\d{1,9})([wh])|(-?(?:\d{1,9}(?:\.\d{1,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,2})?)x")

# A candidate of the plainest form, as nearly all are: a whole number of w or x. From the first other one on: the rest.
_PLAIN = re.compile(
    rf"[{_SPACE},]*+([^{_SPACE}]++)(?<!,)[{_SPACE}]++(?:([1-9]\d{{0,8}})w|(\d{{1,9}})x)[{_SPACE}]*+(?:,|\Z)|(.++)",
    re.DOTALL,
)


SrcsetCandidate = tuple[str, int, float, int | None]
"""One address of a srcset, with what it says of its size: the width in pixels (`w`; 0 where none is given), the pixels of
the image for one of the layout (`x`; 1 where none is given), the height in pixels (`h`, which browsers read and pass over).
"""


def parse_srcset(text: str) -> list[SrcsetCandidate]:
    """The candidates of a srcset in their order, without those whose descriptors are wrong.

    An address may hold commas: only one at its end, or after its descriptors, ends a candidate.

    Source: the HTML Standard, section 4.8.4.3.10 (parsing a srcset attribute). Numbers of more digits than any image
    needs are wrong here.
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
        at, address = url.end(), url[1]
        if address.endswith(","):
            candidate = address.rstrip(","), 0, 1.0, None
        else:
            descriptors = _DESCRIPTORS.match(text, at)
            assert descriptors is not None  # it matches nothing too
            at = descriptors.end()
            candidate = _described(address, _TOKEN.findall(descriptors[1]))
        if candidate:
            yield candidate


def _described(url: str, descriptors: list[str]) -> SrcsetCandidate | None:
    width = height = density = None
    for descriptor in descriptors:
        read = _DESCRIPTOR.fullmatch(descriptor)
        if not read:
            return None
        if read[3]:
            density, repeated = float(read[3]), density is not None
            repeated = repeated or density < 0
        elif read[2] == "w":
            width, repeated = int(read[1]), width is not None
        else:
            height, repeated = int(read[1]), height is not None
        if repeated or width == 0 or height == 0:
            return None
    if (density is not None and (width or height)) or (height and not width):
        return None
    return url, width or 0, 1.0 if density is None else density, height
