"""Packing against copying: the rows `pack` of benchmarks/curate.py, or alone:

    python -m benchmarks.curate_pack [--quick] [--json]

Raw shards of 10,000 samples with pictures of 256 pixels (about 40 kB), as the download stage leaves them, one pair in
twenty dropped by curate. Ours is the whole pack stage in one process: header walk, order, scatter, shards, their sha256,
indexes, Parquet parts, pages, all on the disk (fsync). The peers only copy the raw shards into the same store, from a warm
page cache: `copy, fsync` is shutil.copyfile (sendfile) with an fsync a file, and has the goal; `copy, fsync, sha256` takes
the checksum too, as any part of a snapshot has one. Measured are megabytes of raw shards per second, and that each packed
picture has the bytes of its raw one.
"""

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.measure import Row, arguments, finish, in_turn
from benchmarks.picture_server import photographs, picture
from dataops.schema import CURATED, DOWNLOADED, conform, dropped, uid
from dataops.shards import ShardWriter, read_samples
from dataops.snapshot import Counts, Draft, Manifest, Part, Record, content_digest
from dataops.store import FolderStore
from tasks import pack
from tasks.pack import PACK, PackConfig
from tasks.stage import Context, make, plan

PER_SHARD, DISTINCT, SIDE, GOAL = 10_000, 400, 256, 0.7


def rows(quick: bool) -> list[Row]:
    """Packing beside both ways of copying; where there is time also with all cores, the start of the processes included."""
    with tempfile.TemporaryDirectory() as name:
        store = FolderStore(Path(name) / "store")
        curate, download = prepare(store, 5_000 if quick else 20_000)
        size = sum(part.bytes for part in download.named("", ".tar")) / 1e6
        run = Runs(store, curate, download)
        cases: list[tuple[str, Callable[[], None], Callable[[], None], str, float | None]] = [
            ("pack", run.ours, run.copy, "copy, fsync", GOAL),
            ("pack, checksummed copy", run.ours, run.checksummed_copy, "copy, fsync, sha256", None),
        ]
        if not quick:
            cases.append(("pack, all cores", run.with_workers, run.copy, "copy, fsync", None))
        found = []
        for case, ours, peer, peer_name, goal in cases:
            seconds, theirs, _, _ = in_turn(ours, peer, 3)
            found.append(Row(case, size / seconds, size / theirs, peer_name, "MB/s", goal))
            run.check()
        return found


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Let the stage do its tasks here, one after the other: a core against a core, without the start of processes."""

    def serially(
        function: Callable[..., Record], tasks: Sequence[object], draft: Draft, context: object
    ) -> list[Record]:
        return [draft.finish(function(draft, task)) for task in tasks]

    parallel, pack.map_parts = pack.map_parts, serially
    try:
        yield
    finally:
        pack.map_parts = parallel


class Runs:
    """What is measured: each run begins with nothing of the last one."""

    def __init__(self, store: FolderStore, curate: Manifest, download: Manifest):
        self.store, self.curate, self.download = store, curate, download
        self.made: Manifest | None = None

    def ours(self) -> None:
        with _in_this_process():
            self.with_workers()

    def with_workers(self) -> None:
        self.store.delete_tree("pack")
        planned = plan(PACK, PackConfig(), 0, [self.curate, self.download])
        self.made = make(planned, Context(self.store, self.store.root))

    def checksummed_copy(self) -> None:
        self.store.delete_tree("copied")
        draft = Draft(self.store, "copied", "0" * 16)
        for part in self.download.named("", ".tar"):
            draft.put_file(part.name, self.store.local(self.download.path(part.name)))

    def copy(self) -> None:
        self.store.delete_tree("copied")
        target = self.store.root / "copied"
        target.mkdir()
        for part in self.download.named("", ".tar"):
            shutil.copyfile(self.store.local(self.download.path(part.name)), target / part.name)
            with (target / part.name).open("rb") as file:
                os.fsync(file.fileno())

    def check(self) -> None:
        """Raise ValueError where a picture is not the one that was downloaded."""
        assert self.made is not None
        raw, packed = (self._pictures(manifest) for manifest in (self.download, self.made))
        if len(packed) != self.made.counts.kept or any(raw[key] != digest for key, digest in packed.items()):
            msg = "a packed picture is not the one that was downloaded"
            raise ValueError(msg)

    def _pictures(self, manifest: Manifest) -> dict[str, bytes]:
        found = {}
        for part in manifest.named("", ".tar"):
            with self.store.open(manifest.path(part.name)) as file:
                found |= {key: hashlib.sha256(s["jpg"]).digest() for key, s in read_samples(file, part.name)}
        return found


def prepare(store: FolderStore, number: int) -> tuple[Manifest, Manifest]:
    """Snapshots of curate and download with so many pairs."""
    photos = photographs()
    pictures = [_scaled(picture(photos, n)) for n in range(DISTINCT)]
    raw, kept = Draft(store, "download", "d" * 16), Draft(store, "curate", "c" * 16)
    raw_parts: list[Part] = []
    parts: list[Part] = []
    size = min(number, PER_SHARD)
    for start in range(0, number, size):
        name = f"{start // size:05d}"
        table = _rows(range(start, start + size), f"{name}.tar")
        out = io.BytesIO()
        writer = ShardWriter(out)
        for n, (key, caption) in enumerate(
            zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True), start
        ):
            writer.write(
                key, {"jpg": pictures[n % DISTINCT] + n.to_bytes(4), "json": b"{}" * 300, "txt": caption.encode()}
            )
        writer.close()
        raw_parts.append(raw.put_bytes(f"{name}.tar", out.getvalue(), size))
        raw_parts.append(raw.put_table(f"part-{name}.parquet", conform(table, DOWNLOADED, name)))
        stays = np.arange(size) % 20 != 7
        lost = table.filter(pa.array(~stays)).append_column("drop_reason", pa.array(["too_small"] * (size // 20)))
        parts.append(kept.put_table(f"part-{name}.parquet", conform(table.filter(pa.array(stays)), CURATED, name)))
        parts.append(kept.put_table(f"dropped-{name}.parquet", conform(lost, dropped(CURATED), name)))
    gone = number // 20
    download = _committed(raw, raw_parts, Counts(input=number, kept=number), {"encode_format": "jpg"})
    return _committed(kept, parts, Counts(input=number, kept=number - gone, dropped={"too_small": gone}), {}), download


def _scaled(data: bytes) -> bytes:
    sink = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def _rows(numbers: range, shard: str) -> pa.Table:
    said = [f"picture {n} of a list, with a caption of about the usual length" for n in numbers]
    urls = [f"https://images.example-{n % 97}.org/galleries/2024/{n % 11}/{n}.jpg" for n in numbers]
    uids = [uid(url, caption) for url, caption in zip(urls, said, strict=True)]
    columns = {
        "uid": uids, "key": uids, "url": urls, "caption": said, "page_url": urls, "language": ["en"] * len(said),
        "source": ["crawl-data/CC-MAIN-2024-10/segments/1/warc/a.warc.gz"] * len(said), "status": ["success"] * len(said),
        "sha256": [hashlib.sha256(url.encode()).hexdigest() for url in urls], "shard": [shard] * len(said),
        "width": [SIDE] * len(said), "height": [SIDE] * len(said), "original_width": [800] * len(said),
        "original_height": [600] * len(said), "phash": ["0123456789abcdef"] * len(said),
    }  # fmt: skip
    return pa.table(columns)


def _committed(draft: Draft, parts: list[Part], counts: Counts, config: dict[str, str]) -> Manifest:
    return draft.commit(
        Manifest(
            stage=draft.stage, stage_version=1, key=draft.key, inputs=[], config=config, seed=0, code={}, parts=parts,
            counts=counts, content_digest=content_digest(parts), created_at="",
        )
    )  # fmt: skip


def main() -> int:
    """Packing alone."""
    asked = arguments(str(__doc__)).parse_args()
    return finish("curate", rows(asked.quick), ["pyarrow", "polars", "msgspec"], equal=True, as_json=asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
