"""Curate against PIL with imagehash, and against imagededup's search, in turn in one run.

    python -m benchmarks.curate [--quick] [--json] [--only health,near-duplicates,pack,overlap,banners]

`health`: per core, JPEGs as a raw shard has them through all checks and the hash; the peer decodes with PIL, takes the
contrast with ImageStat, the pixels' sha256 and imagehash's phash. `hash alone`: the peer only decodes and hashes, ours does
what it did before. The pictures are crops of photographs, and openclipart-png's (Debian) where they are installed: of
those, two of three have a plain ground, which ours looks over for text, and the peer does not. Hashes must agree but for
two things: imagehash tells coefficients that are zero in theory (of symmetric drawings) by the noise of their sums, which
ours rounds away, and Pillow 13 resamples the columns of tall pictures first.
`near-duplicates`: a million hashes, of which a tenth were made near others, within 6 bits, on one core. imagededup's brute
force in Cython is asked for some of them only, since all would take days; on a smaller set both answer for all, and the
clusters are compared. `bounded`, only where it is asked for: seconds and memory of ours alone for `--hashes`. `pack`: see
benchmarks/curate_pack.py. `overlap`: see benchmarks/cases/curate_overlap.py. `banners`: the share of rendered text, and of
photographs and drawings, that the check `text_banner` takes; see benchmarks/cases/curate_banners.py.

imagededup is asked through its own class, which needs nothing of what the package would bring along:
pip install --no-deps --target FOLDER imagededup, and FOLDER on PYTHONPATH.
"""

import hashlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import scipy.fft
from PIL import Image, ImageStat

from benchmarks import curate_pack
from benchmarks.cases import curate_banners, curate_overlap
from benchmarks.inputs import images as curate_pictures
from benchmarks.measure import Row, arguments, finish, in_turn, peak_bytes
from dataops.images.near_duplicates import find_clusters
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspect_image

CONFIG = CurateConfig()
DISTANCE = 6


def judge_all(pictures: Sequence[bytes]) -> list[str]:
    """Ours: the checks and the hash of each picture."""
    judged = (inspect_image(data, (curate_pictures.SIDE, curate_pictures.SIDE), CONFIG) for data in pictures)
    return [f"{row['phash']:016x} {row['drop_reason']}" for row in judged]


def check_all(pictures: Sequence[bytes]) -> list[str]:
    """What one writes with PIL and imagehash to learn the same."""
    return [_check(data) for data in pictures]


def _check(data: bytes) -> str:
    image = Image.open(io.BytesIO(data))
    image.load()
    image = image.convert("RGB")
    hashlib.sha256(image.tobytes()).digest()
    image.resize((16, 16), Image.Resampling.BOX).tobytes()
    blank = ImageStat.Stat(image.convert("L")).stddev[0] < CONFIG.min_contrast
    return f"{imagehash.phash(image)} {'blank' if blank else None}"


def hash_all(pictures: Sequence[bytes]) -> list[str]:
    """Decode and hash, nothing else."""
    return [str(imagehash.phash(Image.open(io.BytesIO(data)).convert("RGB"))) for data in pictures]


def rounded_hash(data: bytes) -> int:
    """The algorithm of imagehash, with its coefficients rounded to a millionth as ours are, and rows resampled first."""
    grey = Image.open(io.BytesIO(data)).convert("RGB").convert("L")
    grey = grey.resize((32, grey.height), Image.Resampling.LANCZOS).resize((32, 32), Image.Resampling.LANCZOS)
    lowest = np.round(scipy.fft.dctn(np.asarray(grey, np.float64))[:8, :8], 6)
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def health(ground: str, pictures: Sequence[bytes], times: int, say: Callable[[str], Any]) -> tuple[list[Row], bool]:
    """Both rows of pictures of one kind; and whether verdicts and hashes agree."""
    judge_all(pictures[:3])  # compile
    ours, peer, mine, theirs = in_turn(
        lambda: judge_all(pictures), lambda: check_all(pictures), times, time.process_time
    )
    again, alone, _, _ = in_turn(lambda: judge_all(pictures), lambda: hash_all(pictures), times, time.process_time)
    differ = [n for n, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    apart = [(int(mine[n][:16], 16) ^ rounded_hash(pictures[n])).bit_count() for n in differ]
    most = max(apart, default=0)
    say(f"health, {ground}: {len(pictures):,} pictures, {len(differ)} of other hashes, {most} bits apart when rounded")
    # Text the peer does not look for.
    equal = most == 0 and all(mine[n][16:] in (theirs[n][16:], " text_banner") for n in differ)
    rows = [
        Row(f"health, {ground}", len(pictures) / ours, len(pictures) / peer, "PIL + imagehash", "images/s a core", 3),
        Row(
            f"hash alone, {ground}", len(pictures) / again, len(pictures) / alone, "PIL + imagehash", "images/s a core"
        ),
    ]
    return rows, equal


def some_hashes(number: int) -> np.ndarray:
    """Hashes of chance, of which a tenth are 1 to 6 bits from another."""
    chance = np.random.default_rng(0)
    hashes, copies = chance.integers(0, 2**64, number, np.uint64), number // 10
    hashes[:copies] = hashes[-copies:]
    for least in range(6):
        flips = np.uint64(1) << chance.integers(0, 64, copies).astype(np.uint64)
        some = chance.random(copies) < 1 / (1 + least / 2)
        hashes[:copies][some] ^= flips[some]
    return hashes


def cluster_all(hashes: np.ndarray) -> np.ndarray:
    """Ours."""
    return find_clusters(hashes, np.zeros(len(hashes), np.int64), np.empty((len(hashes), 0), np.uint8), DISTANCE, 0)


def near_duplicates(number: int, asked: int, say: Callable[[str], Any]) -> tuple[list[Row], bool]:
    """The row, and whether the clusters are equal."""
    from imagededup.handlers.search.brute_force_cython import BruteForceCython

    def found(hashes: np.ndarray, rows: Sequence[int]) -> list[tuple[int, int]]:
        named = {str(row): f"{value:016x}" for row, value in enumerate(hashes.tolist())}
        search = BruteForceCython(named, lambda a, b: 0)
        return [(row, int(name)) for row in rows for name, _ in search.search(named[str(row)], DISTANCE)]

    few = some_hashes(number // 250)
    label = np.arange(len(few))
    for a, b in found(few, range(len(few))):  # joined one by one, as one who has pairs would
        low, high = sorted((label[a], label[b]))
        label[label == high] = low
    equal = np.array_equal(label, cluster_all(few))
    hashes = some_hashes(number)
    rows = np.random.default_rng(1).permutation(number // 10)[:asked].tolist()
    ours, peer, mine, theirs = in_turn(lambda: cluster_all(hashes), lambda: found(hashes, rows), 3)
    equal &= all(mine[a] == mine[b] for a, b in theirs)
    say(f"near-duplicates: ours {ours:.1f} s for all {number:,}; the peer {peer:.1f} s for {asked}; equal: {equal}")
    name = f"imagededup's brute force, {asked} asked"
    return [Row(f"near-duplicates {number}", number / ours, asked / peer, name, "hashes/s", 5)], equal


def bounded(number: int) -> dict[str, float]:
    """What it takes to cluster so many hashes; the memory is the whole process's."""
    cluster_all(some_hashes(1000))  # compile
    hashes, started = some_hashes(number), time.perf_counter()
    cluster_all(hashes)
    return {"hashes": number, "seconds": round(time.perf_counter() - started, 1), "peak_bytes": peak_bytes()}


def grounds(number: int, openclipart: Path, stamps: Path) -> dict[str, list[Image.Image]]:
    """Pictures by kind."""
    found = {
        "photographs": curate_pictures.tiles(),
        "emoji": curate_pictures.drawings(number),
        "stamps": curate_pictures.in_folder(stamps, number),
        "clip art": curate_pictures.in_folder(openclipart, number),
    }
    return {name: pictures for name, pictures in found.items() if pictures}


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--number", type=int, default=5000, help="pictures of the case health")
    parser.add_argument("--hashes", type=int, default=10_000_000, help="of the case bounded")
    parser.add_argument("--only", default="health,near-duplicates,pack,overlap,banners", help="the cases to run")
    parser.add_argument("--openclipart", type=Path, default=curate_pictures.OPENCLIPART)
    parser.add_argument("--stamps", type=Path, default=curate_pictures.STAMPS)
    options = parser.parse_args()
    say: Callable[[str], Any] = (lambda line: None) if options.json else lambda line: sys.stdout.write(line + "\n")
    rows: list[Row] = []
    equal = True
    details: dict[str, Any] = {"overlap": []}
    if "health" in options.only:
        number = 300 if options.quick else options.number
        kinds = {
            "photographs": curate_pictures.crops(number),
            "clip art": curate_pictures.in_folder(options.openclipart, number),
        }
        for kind, images in kinds.items():
            pictures = [curate_pictures.as_downloaded(image) for image in images]
            more, same = health(kind, pictures, 1 if options.quick else 3, say) if pictures else ([], True)
            rows, equal = rows + more, equal and same
    if "near-duplicates" in options.only:
        try:
            version("imagededup")
            more, same = near_duplicates(250_000 if options.quick else 1_000_000, 5 if options.quick else 50, say)
            rows, equal = rows + more, equal and same
        except PackageNotFoundError:
            say("near-duplicates: imagededup is not installed; see --help")
    if "bounded" in options.only:
        details["bounded"] = bounded(options.hashes)
    if "pack" in options.only:
        rows += curate_pack.rows(options.quick)
    if "overlap" in options.only:
        for ground, images in grounds(100 if options.quick else 600, options.openclipart, options.stamps).items():
            more, said = curate_overlap.measured(ground, images)
            rows += more
            details["overlap"] += said
            say(f"overlap {ground}: {len(images)} pictures, innocents taken: {said[0]['false']}")
    if "banners" in options.only:
        number = 100 if options.quick else 600
        shown = {"text": curate_banners.banners(number), **grounds(number, options.openclipart, options.stamps)}
        details["banners"] = {
            name: {"pictures": len(images), "taken": len(curate_banners.taken(images))}
            for name, images in shown.items()
        }
        say(f"banners: {details['banners']}")
    packages = ["pillow", "imagehash", "numba", "simplejpeg"]
    return finish("curate", rows, packages, equal=equal, as_json=options.json, details=details)


if __name__ == "__main__":
    sys.exit(main())
