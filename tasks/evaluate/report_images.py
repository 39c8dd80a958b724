"""Small images of an evaluation set for its report. Those that cannot be decoded are left out."""

import base64
from collections.abc import Collection
from typing import Any

from PIL import Image

from dataops.images.decode import PREVIEW_SIDE, ImageRefused, decode, make_preview, read_header
from training.evaluation.sets import EvalSet

MAX_PIXELS = 1 << 26


def make_thumbnails(data: EvalSet, keys: Collection[str]) -> dict[str, str]:
    """Return a JPEG in base64 for each of the samples that can be decoded; reads the set up to the last of them."""
    wanted, found = set(keys), {}
    for sample in data.samples() if wanted else ():
        if sample.key in wanted:
            wanted.discard(sample.key)
            found[sample.key] = _make_thumbnail(sample.image)
            if not wanted:
                break
    return {key: thumbnail for key, thumbnail in found.items() if thumbnail}


def _make_thumbnail(encoded: bytes) -> str:
    try:
        read_header(encoded, MAX_PIXELS)
        image = decode(encoded)
    except ImageRefused:
        return ""
    if max(image.size) < PREVIEW_SIDE:  # a scan of 8 pixels is shown with its pixels
        scale = PREVIEW_SIDE // max(image.size)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    return base64.b64encode(make_preview(image)).decode()


def choose_evenly(rows: list[dict[str, object]], limit: int) -> list[dict[str, Any]]:
    """Return at most `limit` of the rows, evenly spread over their order."""
    if len(rows) <= limit:
        return rows
    return [rows[index * len(rows) // limit] for index in range(limit)]
