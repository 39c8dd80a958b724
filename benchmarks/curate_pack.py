"""Packing against copying: the rows `pack` of benchmarks/curate.py, or alone:

    python -m benchmarks.curate_pack [--quick] [--json]

Four raw shards of 10,000 samples with pictures of 256 pixels (about 40 kB), as the download stage leaves them, one pair in
twenty dropped by curate. (Half a shard with `--quick`, where what each run costs anyway is most of the time.)

Ours is the whole pack stage as `pairmill run` has it, with a worker process a core (started before): header walk, order,
scatter, shards, their sha256, indexes, Parquet parts, pages, all of it on the disk before it counts. The peers copy the
shards that were packed, in the same file system. All read from a warm page cache, and what an earlier run left is deleted
outside the measured time.

- `pack`: the peer is shutil.copyfile (sendfile) with an fsync a file, as `cp` and `sync` are. The limit is that copy with a
  thread beside it that takes the sha256, which no part of a snapshot goes without.
- `pack, no fsync of the copy`: the system writes what is left while nothing is measured.
- `pack, checksummed copy`: the copy takes the sha256 too.
- `pack, a copy a core`: the peer copies with as many threads as there are cores.
- `pack in one process`: ours does one task after the other, with a few threads in each.

Measured are megabytes of packed shards per second, and that each packed picture has the bytes of its raw one.
"""

import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.inputs.image_server import photographs, picture
from benchmarks.measure import Row, arguments, finish, in_turn
from dataops.digest import file_sha256
from dataops.schema import CURATED, DOWNLOADED, conform, dropped_schema, uid
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import Counts, Draft, Manifest, Part, Record, content_digest
from dataops.store import FolderStore
from tasks.engine.context import Context
from tasks.engine.map_parts import shared_workers
from tasks.engine.stage import make, plan
from tasks.pack import stage as pack
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK

PER_SHARD, DISTINCT, SIDE, GOAL = 10_000, 400, 256, 0.7


def rows(quick: bool) -> list[Row]:
    """Packing beside the ways of copying."""
    with tempfile.TemporaryDirectory() as name:
        store = FolderStore(Path(name) / "store")
        run = Runs(store, *prepare(store, 5_000 if quick else 40_000))
        with shared_workers(run.context) as run.context:
            size = run.warm_up() / 1e6
            cases: list[tuple[str, Callable[[], None], Callable[[], None], str, float | None]] = [
                ("pack", run.ours, run.copy, "copy, fsync", GOAL),
                ("pack, no fsync of the copy", run.ours, run.copy_undurable, "copy", None),
                ("pack, checksummed copy", run.ours, run.checksummed_copy, "copy, fsync, sha256", None),
                ("pack, a copy a core", run.ours, run.copy_side_by_side, "copies, fsync", None),
                ("pack in one process", run.ours_in_one_process, run.copy, "copy, fsync", None),
            ]
            times = 3 if quick else 7
            found = [run.compared(size, *case, times) for case in cases]
            seconds, _, _, _ = in_turn(run.copy_beside_checksum, run.checksum, times, run.clock)
            return [replace(found[0], limit=size / seconds), *found[1:]]


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Let the stage do its tasks here, one after the other."""

    def serially(
        function: Callable[..., Record], tasks: Sequence[object], draft: Draft, context: object
    ) -> list[Record]:
        return [draft.finish(function(draft, task)) for task in tasks]

    with patch.object(pack, "map_parts", serially):
        yield


class Runs:
    """What is measured: each run begins with nothing of the last one, on a disk that has nothing left to write."""

    def __init__(self, store: FolderStore, curate: Manifest, download: Manifest):
        self.store, self.curate, self.download = store, curate, download
        self.made: Manifest | None = None
        self.context = Context(store, store.root)
        self._apart = 0.0

    def compared(
        self,
        size: float,
        case: str,
        ours: Callable[[], None],
        peer: Callable[[], None],
        peer_name: str,
        goal: float | None,
        times: int,
    ) -> Row:
        """One case, over `size` megabytes."""
        seconds, theirs, _, _ = in_turn(ours, peer, times, self.clock)
        self.check()
        return Row(case, size / seconds, size / theirs, peer_name, "MB/s", goal)

    def clock(self) -> float:
        """Seconds, without those in which things were made ready."""
        return time.perf_counter() - self._apart

    def warm_up(self) -> int:
        """Pack once, keep the shards for the peers, and have the system hold all that is read; bytes of the shards."""
        self.ours()
        assert self.made is not None
        for part in self.made.named("", ".tar"):
            shutil.copyfile(self.store.local(self.made.path(part.name)), self._there("packed") / part.name)
        for path in sorted(self.store.root.rglob("*.tar")):
            path.read_bytes()
        return sum(part.bytes for part in self.made.named("", ".tar"))

    def ours_in_one_process(self) -> None:
        with _in_this_process():
            self.ours()

    def ours(self) -> None:
        self._clear("pack")
        planned = plan(PACK, PackConfig(), 0, [self.curate, self.download])
        self.made = make(planned, self.context)

    def checksummed_copy(self) -> None:
        self._clear("copied")
        draft = Draft(self.store, "copied", "0" * 16)
        for path in self._shards():
            draft.put_file(path.name, path)

    def copy(self) -> None:
        self.copy_undurable(os.fsync)

    def copy_side_by_side(self) -> None:
        self.copy_undurable(os.fsync, self.context.workers)

    def checksum(self) -> None:
        for path in self._shards():
            file_sha256(path)

    def copy_beside_checksum(self) -> None:
        with ThreadPoolExecutor(1) as thread:
            hashed = thread.submit(self.checksum)
            self.copy()
            hashed.result()

    def copy_undurable(self, to_disk: Callable[[int], None] = lambda descriptor: None, threads: int = 1) -> None:
        self._clear("copied")
        target = self._there("copied")

        def copy(path: Path) -> None:
            shutil.copyfile(path, target / path.name)
            with (target / path.name).open("rb") as file:
                to_disk(file.fileno())

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(copy, self._shards()))

    def _clear(self, stage: str) -> None:
        started = time.perf_counter()
        self.store.delete_tree(stage)
        os.sync()
        self._apart += time.perf_counter() - started

    def _there(self, stage: str) -> Path:
        folder = self.store.root / stage
        folder.mkdir(exist_ok=True)
        return folder

    def _shards(self) -> list[Path]:
        return sorted((self.store.root / "packed").iterdir())

    def check(self) -> None:
        """Raise ValueError where a picture is not the one that was downloaded."""
        assert self.made is not None
        raw, packed = (self._pictures(manifest) for manifest in (self.download, self.made))
        if len(packed) != self.made.counts.kept or any(raw[key] != digest for key, digest in packed.items()):
            raise ValueError("a packed picture is not the one that was downloaded")

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
        parts.append(kept.put_table(f"dropped-{name}.parquet", conform(lost, dropped_schema(CURATED), name)))
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
