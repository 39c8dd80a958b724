"""Write raw shards of synthetic images, as the download stage does, for the tests of curate and pack."""

import hashlib
import io

import numpy as np
import pyarrow as pa
from PIL import Image

from dataops.schema import DOWNLOADED, uid
from dataops.shards.tar import ShardWriter
from dataops.snapshot import Counts, Draft
from tests.manifests import build_manifest


def blocks(seed, size=96):
    colours = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)


def jpeg(image, quality=95):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def pair(url, caption, data, sha256=None, size=96):
    return {
        "uid": uid(url, caption), "url": url, "caption": caption, "status": "success", "original_width": size,
        "original_height": size, "sha256": sha256 or hashlib.sha256(url.encode() + data).hexdigest(), "data": data,
        "language_score": 0.1,
    }  # fmt: skip


def downloaded(store, pairs, shard_size):
    draft, parts = Draft(store, "download", f"k{shard_size}"), []
    for start in range(0, max(len(pairs), 1), shard_size):
        name, out = f"{start // shard_size:05d}", io.BytesIO()
        writer, rows = ShardWriter(out), []
        for offset, row in enumerate(pairs[start : start + shard_size]):
            key = f"{start + offset:09d}"
            writer.write(key, {"jpg": row["data"], "json": b"{}", "txt": row["caption"].encode()})
            rows.append({k: v for k, v in row.items() if k != "data"} | {"key": key, "shard": f"{name}.tar"})
        writer.close()
        parts.append(draft.put_bytes(f"{name}.tar", out.getvalue(), len(rows)))
        parts.append(draft.put_table(f"part-{name}.parquet", pa.Table.from_pylist(rows, DOWNLOADED)))
    return draft.commit(
        build_manifest(
            "download",
            parts,
            key=draft.key,
            config={"encode_format": "jpg"},
            counts=Counts(input=len(pairs), kept=len(pairs)),
        )
    )


def some_pairs():
    first, second = blocks(1), blocks(2)
    smaller = first.resize((48, 48), Image.Resampling.LANCZOS).resize((96, 96), Image.Resampling.LANCZOS)
    return [
        pair("a", "red house", jpeg(first), "aa", size=100),
        pair("b", "Red  House", jpeg(first), "aa", size=120),  # same bytes as fetched, larger original
        pair("c", "red house", jpeg(smaller, 70), size=90),  # rescaled and compressed again
        pair("d", "a house", jpeg(first), "aa"),  # the same picture under another name
        pair("e", "red house", jpeg(second)),  # another picture under the same name
        pair("f", "broken", jpeg(second)[:900]),
        pair("g", "small", jpeg(second), size=20),
        pair("h", "blue house", jpeg(Image.fromarray(np.asarray(first)[:, :, ::-1].copy()))),
        *[pair(f"x{n}", f"caption {n}", jpeg(blocks(100 + n))) for n in range(12)],
    ]
