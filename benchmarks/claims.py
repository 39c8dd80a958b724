"""The cost of a claim on many rows, and how many copies of real photographs it finds.

    python -m benchmarks.claims [--rows 10000000] [--json]

Trees over `--rows` random digests and perceptual hashes are written into a folder, and 200 values are proved to be in them
or not, with the time of each. Then 1,000 photographs, the left and right halves of 500 of the demo's shop, are a dataset:
copies of half the size, encoded again with quality 60, must be found, and 1,000 others, of 500 other photographs, must not.
Bounds: an answer takes 1 s of CPU time, a proof 4 kB, a row 50 bytes; 99% of the copies are found, and no other photograph.
"""

import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inputs.images import encode_jpeg
from benchmarks.measure import finish, make_parser, make_printer
from dataops.images.digests import compute_phash
from dataops.snapshot import Draft
from dataops.store import FolderStore
from dataops.trace.targets import PHASH_BITS
from plugins.claims.tree import Trees, encode_trees
from plugins.claims.verify_claim import WIDTHS, verify_proof
from plugins.demo.groceries import load_photos
from tests.manifests import build_manifest

PHOTO_COUNT = 1000
MAX_SECONDS, MAX_PROOF, MAX_ROW, MIN_FOUND = 1.0, 4096, 50, 0.99


def write_trees(store, values, rows):
    """Write the trees of values that follow one another; return the manifest, their roots and their bytes."""
    data, stated = encode_trees({kind: [found] for kind, found in values.items()}, rows)
    draft = Draft(store, "pack", "c" * 16)
    part = draft.put_bytes("index-claims-00000.bin", data)
    return build_manifest("pack", [part], key=draft.key), stated["roots"], len(data)


def split_photos():
    """Return the left and right halves of the shop's photographs, in an order by chance."""
    images = [
        Image.open(io.BytesIO(photo.jpeg)).convert("RGB") for kind in ("train", "test") for photo in load_photos(kind)
    ]
    order, halves = np.random.default_rng(0).permutation(len(images)), []
    for image in (images[number] for number in order):
        middle = image.width // 2
        halves += [image.crop((0, 0, middle, image.height)), image.crop((middle, 0, image.width, image.height))]
    return halves


def hash_photo(image, quality):
    """Return the perceptual hash of a photograph that is encoded as a JPEG file."""
    return bytes.fromhex(compute_phash(encode_jpeg(image, quality)) or "")


def halve(image):
    """Return a photograph of half the size."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def measure_trees(rows, folder):
    """Return the cost of trees over random values, and of 200 answers, which are verified."""
    values = {
        kind: np.random.default_rng(seed).bytes(rows * width) for seed, (kind, width) in enumerate(WIDTHS.items())
    }
    strangers = {kind: np.random.default_rng(9).bytes(100 * width) for kind, width in WIDTHS.items()}
    store, began = FolderStore(folder), time.process_time()
    manifest, roots, size = write_trees(store, values, rows)
    built, wall, cpu, sizes = time.process_time() - began, [], [], []
    for number in range(200):
        place, chosen = number // 2, strangers if number % 2 else values
        asked = {kind: chosen[kind][place * width : (place + 1) * width] for kind, width in WIDTHS.items()}
        starts = time.perf_counter(), time.process_time()
        trees = Trees(store, manifest, manifest.parts[0])
        near = trees.find_near(asked["phash"], PHASH_BITS)
        asked["phash"] = near or asked["phash"]
        proofs = {kind: trees.prove(kind, value) for kind, value in asked.items()}
        wall.append(time.perf_counter() - starts[0])
        cpu.append(time.process_time() - starts[1])
        sizes.append(len(json.dumps(proofs)))
        expected = {"sha256": chosen is values, "phash": near is not None}
        for kind, value in asked.items():
            root, count = bytes.fromhex(roots[kind]), trees.layouts[kind].values
            assert verify_proof(proofs[kind], value, count, root, WIDTHS[kind]) == expected[kind]
    return {
        "pairs": rows,
        "build_cpu_seconds": round(built, 1),
        "bytes_per_row": round(size / rows, 1),
        "median_seconds": round(float(np.median(wall)), 3),
        "median_cpu_seconds": round(float(np.median(cpu)), 3),
        "max_cpu_seconds": round(max(cpu), 3),
        "proof_bytes": max(sizes),
    }


def measure_photos(folder):
    """Return how many copies of photographs are found, and how many others."""
    photos = split_photos()
    own, others = photos[:PHOTO_COUNT], photos[PHOTO_COUNT : 2 * PHOTO_COUNT]
    hashes = [hash_photo(photo, 90) for photo in own]
    store = FolderStore(folder)
    manifest, _, _ = write_trees(store, {"sha256": b"", "phash": b"".join(hashes)}, len(hashes))
    trees = Trees(store, manifest, manifest.parts[0])
    asked = {
        "copies": [hash_photo(halve(photo), 60) for photo in own],
        "others": [hash_photo(photo, 90) for photo in others],
    }
    found = {name: [trees.find_near(value, PHASH_BITS) for value in some] for name, some in asked.items()}
    return {name: len(some) for name, some in found.items()} | {
        f"{name}_found": sum(one is not None for one in some) for name, some in found.items()
    }


def main():
    """Run it; exit with 1 if a bound is missed."""
    parser = make_parser(__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    show = make_printer(arguments.json)
    with tempfile.TemporaryDirectory() as name:
        found = measure_trees(arguments.rows, Path(name) / "trees") | measure_photos(Path(name) / "photos")
    bounds = {
        f"an answer takes {MAX_SECONDS} s of CPU time": found["max_cpu_seconds"] <= MAX_SECONDS,
        f"a proof has {MAX_PROOF} bytes": found["proof_bytes"] <= MAX_PROOF,
        f"a row takes {MAX_ROW} bytes": found["bytes_per_row"] <= MAX_ROW,
        f"{MIN_FOUND:.0%} of the copies are found": found["copies_found"] >= MIN_FOUND * found["copies"],
        "no other photograph is found": not found["others_found"],
    }
    for label, value in found.items():
        show(f"{label}: {value}")
    missed = [bound for bound, held in bounds.items() if not held]
    for bound in missed:
        show(f"MISSED: {bound}")
    return finish("claims", (), (), equal=not missed, as_json=arguments.json, details=found)


if __name__ == "__main__":
    raise SystemExit(main())
