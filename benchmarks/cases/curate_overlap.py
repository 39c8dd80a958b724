"""How surely changed copies of evaluation pictures are found, against one hash a picture, as imagededup compares them."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.measure import Row
from dataops.images.fingerprint import fingerprint
from dataops.images.near_duplicates import hamming_distance
from dataops.images.overlap import index_image
from tasks.curate.config import OverlapConfig
from tasks.curate.evaluation_overlap import find_matches
from tasks.curate.inspect_images import INSPECTED

PEER_DISTANCE = 10  # of imagededup's find_duplicates

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compressed."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return Image.open(io.BytesIO(sink.getvalue()))


def crop(image: Image.Image, chance: np.random.Generator, area: float, ratio: float = 1.0) -> Image.Image:
    """A part of so much area, wider than the whole by `ratio`, at a place of chance."""
    width = min(image.width, round(image.width * (area * ratio) ** 0.5))
    height = min(image.height, round(image.height * (area / ratio) ** 0.5))
    x, y = (int(chance.integers(0, gap + 1)) for gap in (image.width - width, image.height - height))
    return image.crop((x, y, x + width, y + height))


CHANGES: dict[str, Change] = {
    "jpeg 40": lambda image, _: jpeg(image, 40),
    "half size": lambda image, _: image.resize((image.width // 2, image.height // 2)),
    "stretched by 4:3": lambda image, _: image.resize((image.width, image.height * 3 // 4)),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "brighter by 1.3": lambda image, _: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast 0.6": lambda image, _: ImageEnhance.Contrast(image).enhance(0.6),
    "saturation 2": lambda image, _: ImageEnhance.Color(image).enhance(2.0),
    "grey": lambda image, _: ImageOps.grayscale(image).convert("RGB"),
    "channels swapped": lambda image, _: Image.merge("RGB", [image.split()[i] for i in (1, 2, 0)]),
    "crop of 90%": lambda image, chance: crop(image, chance, 0.9),
    "crop of 80%": lambda image, chance: crop(image, chance, 0.8),
    "crop of 65%": lambda image, chance: crop(image, chance, 0.65),
    "crop of 50%": lambda image, chance: crop(image, chance, 0.5),
    "crop of 80%, 1.2 wider": lambda image, chance: crop(image, chance, 0.8, 1.2),
    "crop of 70%, mirrored, jpeg 60": lambda image, chance: jpeg(ImageOps.mirror(crop(image, chance, 0.7)), 60),
}


def table(pictures: Sequence[Image.Image]) -> pa.Table:
    """Training pictures, as they are judged; a picture's uid is its number."""
    rows = []
    for number, picture in enumerate(pictures):
        seen = fingerprint(np.asarray(picture.convert("RGB")))
        row = {"uid": str(number), "sha256": "", "phash": seen.phash, "luminance": seen.luminance}
        rows.append(row)
    return pa.Table.from_pylist(rows, INSPECTED)


def indexed(pictures: Sequence[Image.Image]) -> pa.Table:
    """An evaluation set, as the stage reads it; a picture's member is its number."""
    rows = []
    for number, picture in enumerate(pictures):
        plane, hashes = index_image(np.asarray(picture.convert("RGB")))
        row = {"evaluation_set": "", "member": str(number), "sha256": f"evaluation {number}"}
        rows.append({**row, "plane": plane.tobytes(), "hashes": hashes.astype("<u8").tobytes()})
    return pa.Table.from_pylist(rows)


def one_hash(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Hashes of imagehash."""
    return np.array([int(str(imagehash.phash(picture)), 16) for picture in pictures], np.uint64)


def measured(ground: str, pictures: Sequence[Image.Image]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Half of the pictures are the evaluation set, the others are innocent. Rows of recall, and all that was counted.

    `false` is the share of innocents that are taken for an evaluation picture, precision that of rightly taken copies among
    all that are taken, with as many innocents as copies.
    """
    order = np.random.default_rng(0).permutation(len(pictures))
    originals, innocent = ([pictures[i] for i in half] for half in np.array_split(order, 2))
    config, sets, hashes = OverlapConfig(paths=("",)), indexed(originals), one_hash(originals)
    taken = set(find_matches(table(innocent), sets, config)["uid"].to_pylist())
    apart = hamming_distance(hashes[:, None], one_hash(innocent)[None])
    false = {"ours": len(taken) / len(innocent), "peer": float((apart <= PEER_DISTANCE).any(axis=0).mean())}
    rows, said = [], []
    for name, change in CHANGES.items():
        chance = np.random.default_rng(1)
        copies = [change(picture.convert("RGB"), chance) for picture in originals]
        found = find_matches(table(copies), sets, config)
        right = {"ours": sum(map(str.__eq__, found["uid"].to_pylist(), found["member"].to_pylist())) / len(originals)}
        right["peer"] = float((hamming_distance(hashes, one_hash(copies)) <= PEER_DISTANCE).mean())
        rows.append(Row(f"overlap {ground}, {name}", right["ours"], right["peer"], "one hash a picture", "recall"))
        precision = {side: right[side] / max(right[side] + false[side], 1e-9) for side in right}
        said.append({"ground": ground, "change": name, "recall": right, "precision": precision, "false": false})
    return rows, said
