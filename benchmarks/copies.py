"""How many copies of listed images perceptual digests find, and how many unlike images they take for copies.

    python -m benchmarks.copies [--unlike 100000] [--listed 1000] [--pictures FILE.tar]... [--json]

Each digest that opt-out lists may have is computed of `--listed` images, of six copies of each (re-encoded, halved,
enlarged), and of `--unlike` other images. Half of the synthetic images are like photographs (noise whose strength falls
with its frequency, and objects), half like drawings (shapes on a plain ground). Of the pictures of each tar file, every
tenth is listed beside the synthetic ones. A pair of two pictures that differ by at most 8 of 255 levels on average over
32x32 pixels is a copy in the data and no false alarm. Pictures of one set are not all unlike: drawings come in series. So
the alarms are counted by set. Bounds: pHash finds 95% of the copies, and 0.1% of the synthetic images are false alarms.
"""

import io
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.measure import finish, make_parser, make_printer
from dataops import plugins
from dataops.images.digests import KIND, Digest, DistanceSet, parse_words

SIDE, MAX_DIFFERENCE = 128, 8.0
MIN_FOUND, MAX_ALARMS = 0.95, 0.001


def synthetic(seed: int) -> Image.Image:
    """Return an image that no other seed gives anything like."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        pixels = np.zeros((SIDE, SIDE, 3), np.float32)
        for octave in range(1, 7):
            noise = rng.normal(size=(1 << octave, 1 << octave, 3)).astype(np.float32)
            pixels += cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) / octave
        pixels = 128 + pixels * rng.uniform(25, 60)
    else:
        pixels = np.full((SIDE, SIDE, 3), rng.uniform(180, 255, 3), np.float32)
    image = np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8))
    for _ in range(int(rng.integers(2, 9))):
        colour, at = rng.integers(0, 256, 3).tolist(), rng.integers(0, SIDE, 2).tolist()
        size = rng.integers(6, SIDE // 2, 2).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(image, at, size, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            corners = (np.array(at) + rng.integers(-SIDE // 2, SIDE // 2, (4, 2))).astype(np.int32)
            cv2.fillPoly(image, [corners], colour, cv2.LINE_AA)
    return Image.fromarray(image)


def encode(image: Image.Image, kind: str = "PNG", quality: int = 90, scale: float = 1) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(file, kind, quality=quality, compress_level=1)
    return file.getvalue()


COPIES = {
    "JPEG of quality 75": ("JPEG", 75, 1), "JPEG of quality 40": ("JPEG", 40, 1), "WebP of quality 60": ("WEBP", 60, 1),
    "half size, JPEG": ("JPEG", 90, 0.5), "half size, WebP": ("WEBP", 75, 0.5), "double size, JPEG": ("JPEG", 85, 2),
}  # fmt: skip


def load_pictures(path: Path) -> Iterator[Image.Image]:
    """Yield the pictures of a tar file on white."""
    with tarfile.open(path) as archive:
        for member in archive:
            if Path(member.name).suffix in (".jpg", ".png", ".webp") and (file := archive.extractfile(member)):
                image = Image.open(file).convert("RGBA")
                yield Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def thumbnail(image: Image.Image) -> NDArray[np.int16]:
    """Return 32x32 means (32, 32, 3)."""
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.int16)


class Measured:
    """The counts of one digest."""

    def __init__(self, digest: Digest, listed: list[Image.Image]):
        self.digest, self.seconds = digest, 0.0
        self.counts: dict[str, Counter[str]] = {}
        values = [self.compute(encode(image)) for image in listed]
        self.usable = [number for number, value in enumerate(values) if value]
        self.listed = [listed[number] for number in self.usable]
        self.set = DistanceSet(np.array([parse_words(str(values[number])) for number in self.usable], np.uint64))
        self.found = dict.fromkeys(COPIES, 0)

    def compute(self, data: bytes) -> str | None:
        started = time.process_time()
        value = self.digest.compute(data)
        self.seconds += time.process_time() - started
        return value

    def find(self, data: bytes) -> int | None:
        if (value := self.compute(data)) is None:
            return None
        near = self.set.find_near(np.array(parse_words(value), np.uint64), self.digest.bits)
        return near and near[0]

    def count_unlike(self, where: str, image: Image.Image, data: bytes) -> None:
        counts = self.counts.setdefault(where, Counter())
        counts["images"] += 1
        if (near := self.find(data)) is not None:
            is_copy = np.abs(thumbnail(image) - thumbnail(self.listed[near])).mean() <= MAX_DIFFERENCE
            counts["copies in the data" if is_copy else "false alarms"] += 1


def main(arguments: list[str]) -> int:
    """Measure, and print the report."""
    parser = make_parser(str(__doc__).partition("\n")[0])
    parser.add_argument("--unlike", type=int, default=100_000)
    parser.add_argument("--listed", type=int, default=1000)
    parser.add_argument("--pictures", type=Path, action="append", default=[], help="tar files of pictures")
    options = parser.parse_args(arguments)
    show = make_printer(options.json)
    sets = {path.stem: list(load_pictures(path)) for path in options.pictures}
    listed = [synthetic(seed) for seed in range(options.listed)]
    listed += [image for images in sets.values() for image in images[::10]]
    measured = {name: Measured(digest, listed) for name, digest in plugins.load(KIND).items()}
    for number, image in enumerate(listed):
        for label, how in COPIES.items():
            data = encode(image, *how)
            for one in measured.values():
                one.found[label] += number in one.usable and one.find(data) is not None
    others = [(name, image) for name, images in sets.items() for at, image in enumerate(images) if at % 10]
    for number in range(options.unlike):
        where, image = others[number] if number < len(others) else ("synthetic", synthetic(1_000_000 + number))
        data = encode(image, "JPEG", 95)
        for one in measured.values():
            one.count_unlike(where, image, data)
    digests: dict[str, dict[str, Any]] = {
        name: {
            "max_distance": one.digest.bits,
            "without_detail": len(listed) - len(one.usable),
            "found": {label: round(found / len(listed), 4) for label, found in one.found.items()},
            "unlike": one.counts,
            "ms_an_image": round(1000 * one.seconds / (options.unlike + len(listed) * (1 + len(COPIES))), 3),
        }
        for name, one in measured.items()
    }
    for name, result in digests.items():
        show(f"{name}: {result}")
    is_met = sum(digests["phash"]["found"].values()) >= MIN_FOUND * len(COPIES) and all(
        one["unlike"]["synthetic"]["false alarms"] <= MAX_ALARMS * one["unlike"]["synthetic"]["images"]
        for one in digests.values()
    )
    counts = {"listed": len(listed), "unlike": options.unlike}
    return finish("copies", (), ("Pillow",), equal=is_met, as_json=options.json, details={**counts, "digests": digests})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
