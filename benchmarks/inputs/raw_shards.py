"""Write raw shards of photographs, and what curate keeps of them, as the input of pack."""

import hashlib
import io

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.inputs.images import encode_jpeg, load_photographs, make_jpeg
from dataops.schema import CURATED, DOWNLOADED, conform, dropped_schema, uid
from dataops.shards.tar import ShardWriter
from dataops.snapshot import Counts, Draft
from tests.manifests import build_manifest

PER_SHARD, DISTINCT, SIDE = 10_000, 400, 256


def write_snapshots(store, number, side=SIDE):
    """Write snapshots of curate and download with `number` pairs and images of `side` pixels; return their manifests."""
    photos = load_photographs()
    images = [_scale(make_jpeg(photos, n), side) for n in range(DISTINCT)]
    raw, kept = Draft(store, "download", "d" * 16), Draft(store, "curate", "c" * 16)
    raw_parts = []
    parts = []
    size = min(number, PER_SHARD)
    for start in range(0, number, size):
        name = f"{start // size:05d}"
        table = _make_rows(range(start, start + size), f"{name}.tar", side)
        out = io.BytesIO()
        writer = ShardWriter(out)
        for n, (key, caption) in enumerate(
            zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True), start
        ):
            writer.write(
                key, {"jpg": images[n % DISTINCT] + n.to_bytes(4), "json": b"{}" * 300, "txt": caption.encode()}
            )
        writer.close()
        raw_parts.append(raw.put_bytes(f"{name}.tar", out.getvalue(), size))
        raw_parts.append(raw.put_table(f"part-{name}.parquet", conform(table, DOWNLOADED, name)))
        keep = np.arange(size) % 20 != 7
        dropped = table.filter(pa.array(~keep)).append_column("drop_reason", pa.array(["too_small"] * (size // 20)))
        parts.append(kept.put_table(f"part-{name}.parquet", conform(table.filter(pa.array(keep)), CURATED, name)))
        parts.append(kept.put_table(f"dropped-{name}.parquet", conform(dropped, dropped_schema(CURATED), name)))
    drops = number // 20
    counts = Counts(input=number, kept=number), Counts(input=number, kept=number - drops, dropped={"too_small": drops})
    download = build_manifest("download", raw_parts, key=raw.key, config={"encode_format": "jpg"}, counts=counts[0])
    curate = build_manifest("curate", parts, key=kept.key, counts=counts[1])
    return kept.commit(curate), raw.commit(download)


def _scale(data, side):
    return encode_jpeg(Image.open(io.BytesIO(data)).resize((side, side), Image.Resampling.LANCZOS), 95)


def _make_rows(numbers, shard, side):
    captions = [f"picture {n} of a list, with a caption of about the usual length" for n in numbers]
    urls = [f"https://images.example-{n % 97}.org/galleries/2024/{n % 11}/{n}.jpg" for n in numbers]
    uids = [uid(url, caption) for url, caption in zip(urls, captions, strict=True)]
    known = {
        "language": "en", "status": "success", "shard": shard, "width": side, "height": side, "original_width": 800,
        "original_height": 600, "phash": "0123456789abcdef",
    }  # fmt: skip
    columns = {"uid": uids, "key": uids, "url": urls, "caption": captions}
    columns["sha256"] = [hashlib.sha256(url.encode()).hexdigest() for url in urls]
    return pa.table(columns | {name: [value] * len(urls) for name, value in known.items()})
