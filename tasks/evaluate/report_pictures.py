"""Small pictures of an evaluation set for a report, as data: addresses. What cannot be decoded has none."""

import base64
from collections.abc import Collection
from typing import Any

from PIL import Image

from dataops.images.decode import PREVIEW_SIDE, ImageRefused, decode, make_preview, read_header
from training.evaluation.sets import EvalSet

SIDE = PREVIEW_SIDE
MOST_PIXELS = 1 << 26


def thumbnails(data: EvalSet, keys: Collection[str]) -> dict[str, str]:
    """A data: address for each of the samples that can be decoded; reads the set up to the last of them."""
    wanted, found = set(keys), {}
    for sample in data.samples() if wanted else ():
        if sample.key in wanted:
            wanted.discard(sample.key)
            found[sample.key] = _address(sample.image)
            if not wanted:
                break
    return {key: address for key, address in found.items() if address}


def _address(encoded: bytes) -> str:
    try:
        read_header(encoded, MOST_PIXELS)
        image = decode(encoded)
    except ImageRefused:
        return ""
    if max(image.size) < SIDE:  # a scan of 8 pixels is shown as what it is
        scale = SIDE // max(image.size)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return "data:image/jpeg;base64," + base64.b64encode(make_preview(image)).decode()


def picked(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Some of the rows, evenly spread over their order."""
    if len(rows) <= most:
        return rows
    return [rows[index * len(rows) // most] for index in range(most)]
