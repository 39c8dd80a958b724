"""Make a packed dataset of synthetic rows and features. Its shards are links to one tar of images."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.inputs.rows import make_pairs, random_bits, random_shares
from dataops.images.feature_table import FeatureTable, image_ids, preparation_digest
from dataops.schema import CURATED, conform
from dataops.shards.layout import Member
from dataops.shards.tar import ShardWriter, format_index
from dataops.snapshot import MANIFEST, Counts, Draft, Manifest, Part, content_digest, load_manifest
from dataops.store import FolderStore

PART_ROWS, IMAGES, SIDE = 10_000, 500, 224
FEATURE_ROWS = 50_000
"""Number of features that are made at once."""
KEY, MODEL = "b" * 16, "c" * 64


def make_dataset(
    folder: Path, rows: int, dimensions: int, show: Callable[[str], Any], part_rows: int = PART_ROWS
) -> tuple[Manifest, FolderStore]:
    """Return the dataset in a folder, which is made if it is missing.

    Args:
        show: called with a line of progress.
    """
    store = FolderStore(folder / "store")
    if store.size(f"pack/{KEY}/{MANIFEST}") is not None:
        manifest = load_manifest(store, "pack", KEY)
        assert manifest is not None
        return manifest, store
    draft, parts = Draft(store, "pack", KEY), list[Part]()
    members = _write_images(folder / "images.tar")
    table = FeatureTable(folder / "home" / "browse" / "features" / f"{MODEL[:16]}-{preparation_digest(None)}")
    for number, start in enumerate(range(0, rows, part_rows)):
        data = make_rows(start, min(part_rows, rows - start), number)
        name = f"{number:05d}"
        parts.append(draft.put_table(f"part-{name}.parquet", data))
        tar = folder / "store" / draft.path(f"{name}.tar")
        os.link(folder / "images.tar", tar)
        parts.append(Part(name=tar.name, rows=data.num_rows, bytes=tar.stat().st_size, sha256="0" * 64))
        lines = ([members[n % IMAGES]._replace(key=key)] for n, key in enumerate(data["key"].to_pylist()))
        parts.append(draft.put_bytes(f"{name}.idx", format_index(lines).encode()))
        if number % 10 == 9:
            show(f"{start + data.num_rows:,} rows")
    digests = _digests(np.arange(rows, dtype=np.uint64))
    rng = np.random.default_rng(0)
    for start in range(0, rows, FEATURE_ROWS):
        some = digests[start : start + FEATURE_ROWS]
        features = rng.standard_normal((len(some), dimensions), np.float32)
        table.add(image_ids(some), features / np.linalg.norm(features, axis=1, keepdims=True))
    manifest = Manifest(
        stage="pack", stage_version=1, key=KEY, inputs=[], config={}, seed=0, code={}, parts=parts,
        counts=Counts(input=rows, kept=rows), content_digest=content_digest(parts), created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    return draft.commit(manifest), store


def make_rows(start: int, count: int, number: int) -> pa.Table:
    """Return rows of a dataset, with the columns of `pack`."""
    pairs, at = make_pairs(start, count), np.arange(start, start + count, dtype=np.uint64)
    uids = [f"{high:016x}{low:016x}" for high, low in zip(random_bits(at, 1), random_bits(at, 2), strict=True)]
    columns = {name: pairs[name] for name in pairs.column_names if name in CURATED.names}
    more = {
        "uid": uids,
        "key": uids,
        "shard": [f"{number:05d}.tar"] * count,
        "status": ["success"] * count,
        "language": np.array(["en", "de", "fr", "es"])[random_bits(at, 3) % np.uint64(4)].tolist(),
        "language_score": random_shares(at, 4).astype(np.float32),
        "clip_score": (0.2 + 0.2 * random_shares(at, 5)).astype(np.float32),
        "width": [SIDE] * count,
        "height": [SIDE] * count,
        "original_width": (100 + random_bits(at, 6) % np.uint64(1900)).astype(np.int32),
        "original_height": (100 + random_bits(at, 7) % np.uint64(1900)).astype(np.int32),
        "sha256": _digests(at),
        "phash": [f"{bits:016x}" for bits in random_bits(at, 8)],
    }
    schema = CURATED.append(pa.field("clip_score", pa.float32()))
    return conform(pa.table(columns | more), schema, "benchmark")


def _digests(at: np.ndarray) -> list[str]:
    columns = [random_bits(at, salt) for salt in range(11, 15)]
    return ["".join(f"{value:016x}" for value in row) for row in zip(*columns, strict=True)]


def _write_images(path: Path) -> list[Member]:
    """Write a tar of images of coloured blocks, and return its members."""
    rng, members = np.random.default_rng(0), list[Member]()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = ShardWriter(file)
        for number in range(IMAGES):
            blocks = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
            sink = io.BytesIO()
            blocks.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=95)
            members += writer.write(f"{number:06d}", {"jpg": sink.getvalue()})
        writer.close()
    return members
