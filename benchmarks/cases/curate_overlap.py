"""Measure how many changed copies of evaluation images are found, compared with one hash per image, as in imagededup."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.measure import Row, peer_imports
from dataops.images.fingerprint import fingerprint
from dataops.images.near_duplicates import hamming_distance
from dataops.images.overlap import index_image
from tasks.curate.config import OverlapConfig
from tasks.curate.evaluation_overlap import find_matches
from tasks.curate.inspect_images import INSPECTED

with peer_imports():
    import imagehash

PEER_DISTANCE = 10  # default of imagededup's find_duplicates

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def compress(image: Image.Image, quality: int) -> Image.Image:
    """Return the image, compressed as JPEG."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return Image.open(io.BytesIO(sink.getvalue()))


def random_crop(image: Image.Image, rng: np.random.Generator, area: float, ratio: float = 1.0) -> Image.Image:
    """Return a crop of a share of the area, wider than the image by `ratio`, at a random position."""
    width = min(image.width, round(image.width * (area * ratio) ** 0.5))
    height = min(image.height, round(image.height * (area / ratio) ** 0.5))
    x, y = (int(rng.integers(0, gap + 1)) for gap in (image.width - width, image.height - height))
    return image.crop((x, y, x + width, y + height))


CHANGES: dict[str, Change] = {
    "jpeg 40": lambda image, _: compress(image, 40),
    "half size": lambda image, _: image.resize((image.width // 2, image.height // 2)),
    "stretched by 4:3": lambda image, _: image.resize((image.width, image.height * 3 // 4)),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "brighter by 1.3": lambda image, _: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast 0.6": lambda image, _: ImageEnhance.Contrast(image).enhance(0.6),
    "saturation 2": lambda image, _: ImageEnhance.Color(image).enhance(2.0),
    "grey": lambda image, _: ImageOps.grayscale(image).convert("RGB"),
    "channels swapped": lambda image, _: Image.merge("RGB", [image.split()[i] for i in (1, 2, 0)]),
    "crop of 90%": lambda image, rng: random_crop(image, rng, 0.9),
    "crop of 80%": lambda image, rng: random_crop(image, rng, 0.8),
    "crop of 65%": lambda image, rng: random_crop(image, rng, 0.65),
    "crop of 50%": lambda image, rng: random_crop(image, rng, 0.5),
    "crop of 80%, 1.2 wider": lambda image, rng: random_crop(image, rng, 0.8, 1.2),
    "crop of 70%, mirrored, jpeg 60": lambda image, rng: compress(ImageOps.mirror(random_crop(image, rng, 0.7)), 60),
}


def make_inspected(images: Sequence[Image.Image]) -> pa.Table:
    """Return inspected training images; the uid of an image is its index."""
    rows = []
    for number, image in enumerate(images):
        found = fingerprint(np.asarray(image.convert("RGB")))
        row = {"uid": str(number), "sha256": "", "phash": found.phash, "luminance": found.luminance}
        rows.append(row)
    return pa.Table.from_pylist(rows, INSPECTED)


def make_indexed(images: Sequence[Image.Image]) -> pa.Table:
    """Return an indexed evaluation set; the member of an image is its index."""
    rows = []
    for number, image in enumerate(images):
        plane, hashes = index_image(np.asarray(image.convert("RGB")))
        row = {"evaluation_set": "", "member": str(number), "sha256": f"evaluation {number}"}
        rows.append({**row, "plane": plane.tobytes(), "hashes": hashes.astype("<u8").tobytes()})
    return pa.Table.from_pylist(rows)


def compute_phashes(images: Sequence[Image.Image]) -> np.ndarray:
    """Return the hashes of imagehash."""
    return np.array([int(str(imagehash.phash(image)), 16) for image in images], np.uint64)


def measure_overlap(kind: str, images: Sequence[Image.Image]) -> tuple[list[Row], list[dict[str, Any]]]:
    """Return rows of recall, and recall and precision of each change. Half of the images are the evaluation set.

    `false` is the share of the other images that match an evaluation image (false positives); precision is the share of
    correct matches, with as many other images as copies.
    """
    order = np.random.default_rng(0).permutation(len(images))
    originals, others = ([images[i] for i in half] for half in np.array_split(order, 2))
    config, sets, hashes = OverlapConfig(paths=("",)), make_indexed(originals), compute_phashes(originals)
    matched = set(find_matches(make_inspected(others), sets, config)["uid"].to_pylist())
    apart = hamming_distance(hashes[:, None], compute_phashes(others)[None])
    false = {"ours": len(matched) / len(others), "peer": float((apart <= PEER_DISTANCE).any(axis=0).mean())}
    rows, counts = [], []
    for name, change in CHANGES.items():
        rng = np.random.default_rng(1)
        copies = [change(image.convert("RGB"), rng) for image in originals]
        found = find_matches(make_inspected(copies), sets, config)
        recall = {"ours": sum(map(str.__eq__, found["uid"].to_pylist(), found["member"].to_pylist())) / len(originals)}
        recall["peer"] = float((hamming_distance(hashes, compute_phashes(copies)) <= PEER_DISTANCE).mean())
        rows.append(Row(f"overlap {kind}, {name}", recall["ours"], recall["peer"], "one hash a image", "recall"))
        precision = {side: recall[side] / max(recall[side] + false[side], 1e-9) for side in recall}
        counts.append({"ground": kind, "change": name, "recall": recall, "precision": precision, "false": false})
    return rows, counts
