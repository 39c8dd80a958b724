"""Compare curate with PIL and imagehash, and with faiss's search, in turn in one run.

    python -m benchmarks.curate [--quick] [--json] [--only health,near-duplicates,pack]

`health`: JPEGs like those of a raw shard through all checks and the hash, on one core; the peer decodes with PIL,
computes the contrast with ImageStat, the pixels' SHA-256 and imagehash's phash. The images are crops of photographs.
Hashes must agree, with two exceptions: ours rounds coefficients that are zero in theory (of symmetric
drawings), and Pillow 13 resamples the columns of tall images first. `near-duplicates`: a million hashes, a tenth of
them within 6 bits of others, on one core; the peer is faiss's IndexBinaryMultiHash, exact for 6 bits, and SciPy's
connected components; the clusters must be equal. The limits are libjpeg-turbo's decoding, and one sort of the hashes.
`pack`: see benchmarks/curate_pack.py.
"""

import hashlib
import io
import time

import numpy as np
import scipy.fft
from PIL import Image, ImageStat

from benchmarks import curate_pack
from benchmarks.inputs import images
from benchmarks.measure import Row, decode_speed, finish, make_parser, make_printer, peer_imports, time_in_turn
from dataops.images.near_duplicates import find_clusters
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import inspect_image

with peer_imports():
    import imagehash

CONFIG = CurateConfig()
DISTANCE = 6


def inspect_all(jpegs):
    """Check and hash each image with our code."""
    inspected = (inspect_image(data, (images.SIDE, images.SIDE), CONFIG) for data in jpegs)
    return [f"{row['phash']:016x} {row['drop_reason']}" for row in inspected]


def check_with_pil(data):
    """Check and hash an image with PIL and imagehash."""
    image = Image.open(io.BytesIO(data))
    image.load()
    image = image.convert("RGB")
    hashlib.sha256(image.tobytes()).digest()
    image.resize((16, 16), Image.Resampling.BOX).tobytes()
    blank = ImageStat.Stat(image.convert("L")).stddev[0] < CONFIG.min_contrast
    return f"{imagehash.phash(image)} {'blank' if blank else None}"


def hash_rounded(data):
    """Hash as imagehash does, but with coefficients rounded to a millionth, as ours."""
    grey = Image.open(io.BytesIO(data)).convert("RGB").convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    lowest = np.round(scipy.fft.dctn(np.asarray(grey, np.float64))[:8, :8], 6)
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def measure_health(jpegs, times, say):
    """Return the row, and whether decisions and hashes agree."""
    inspect_all(jpegs[:3])  # compile
    ours, peer, mine, theirs = time_in_turn(
        lambda: inspect_all(jpegs), lambda: list(map(check_with_pil, jpegs)), times, time.process_time
    )
    differ = [n for n, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    apart = [(int(mine[n][:16], 16) ^ hash_rounded(jpegs[n])).bit_count() for n in differ]
    most = max(apart, default=0)
    say(f"health: {len(jpegs):,} images, {len(differ)} hashes differ, by at most {most} bits after rounding")
    equal = most == 0 and all(mine[n][16:] == theirs[n][16:] for n in differ)
    speeds = len(jpegs) / ours, len(jpegs) / peer
    limit = decode_speed(jpegs)
    return [Row("health, photographs", *speeds, "PIL + imagehash", "images/s a core", 3, limit)], equal


def make_hashes(number):
    """Return random hashes, a tenth of which differ in at most 6 bits from another."""
    rng = np.random.default_rng(0)
    hashes, copies = rng.integers(0, 2**64, number, np.uint64), number // 10
    hashes[:copies] = hashes[-copies:]
    for least in range(6):
        flips = np.uint64(1) << rng.integers(0, 64, copies).astype(np.uint64)
        flipped = rng.random(copies) < 1 / (1 + least / 2)
        hashes[:copies][flipped] ^= flips[flipped]
    return hashes


def cluster_all(hashes):
    """Cluster hashes with our code."""
    return find_clusters(hashes, np.zeros(len(hashes), np.int64), np.empty((len(hashes), 0), np.uint8), DISTANCE, 0)


def cluster_with_faiss(hashes):
    """Return the first row of each hash's cluster, by faiss.

    Of two hashes that differ in 6 of 64 bits, one of three parts of 21 bits differs in at most 2.
    """
    import faiss
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    faiss.omp_set_num_threads(1)
    index, codes = faiss.IndexBinaryMultiHash(64, 3, 21), hashes.view(np.uint8).reshape(-1, 8)
    index.nflip = 2
    index.add(codes)
    ends, _, found = index.range_search(codes, DISTANCE + 1)
    pairs = np.repeat(np.arange(len(hashes)), np.diff(ends.astype(np.int64))), found
    graph = coo_matrix((np.ones(len(found), bool), pairs), (len(hashes), len(hashes)))
    label = connected_components(graph, directed=False)[1]
    return np.unique(label, return_index=True)[1][label]


def measure_near_duplicates(number, say):
    """Return the row, and whether the clusters are equal."""
    cluster_all(make_hashes(1000))  # compile
    hashes = make_hashes(number)
    ours, peer, *clusters = time_in_turn(
        lambda: cluster_all(hashes), lambda: cluster_with_faiss(hashes), 1, time.process_time
    )
    equal, started = np.array_equal(*clusters), time.process_time()
    np.sort(hashes)
    limit = number / (time.process_time() - started)
    say(f"near-duplicates: ours {ours:.1f} s for {number:,}, faiss {peer:.1f} s; equal: {equal}")
    return [Row(f"near-duplicates {number}", number / ours, number / peer, "faiss", "hashes/s/core", 5, limit)], equal


def main():
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--only", default="health,near-duplicates,pack", help="the cases to run")
    options = parser.parse_args()
    say = make_printer(options.json)
    rows = []
    equal = True
    if "health" in options.only:
        jpegs = [images.encode_as_downloaded(one) for one in images.random_crops(300 if options.quick else 5000)]
        rows, equal = measure_health(jpegs, 1 if options.quick else 3, say)
    if "near-duplicates" in options.only:
        more, same = measure_near_duplicates(100_000 if options.quick else 1_000_000, say)
        rows, equal = rows + more, equal and same
    if "pack" in options.only:
        rows += curate_pack.measure_pack(options.quick)
    packages = ["pillow", "imagehash", "numba", "simplejpeg"]
    return finish("curate", rows, packages, equal=equal, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
