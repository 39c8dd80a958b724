"""Compare packing with copying: the case `pack` of benchmarks/curate.py, or alone:

    python -m benchmarks.curate_pack [--quick] [--json]

The input is four raw shards of 10,000 samples with images of 256 pixels (about 40 kB); curate drops one in twenty.
(With `--quick` it is half a shard, and the fixed cost of a run is most of the time.)

Ours is the whole pack stage as in `pairmill run`, with one worker process per core (already started): headers,
order, exchange, shards, their SHA-256, indexes, Parquet parts and pages, all written to disk. The peers copy the
packed shards in the same file system. All read from a warm page cache, and the output of earlier runs is deleted
outside the measured time.

- `pack`: the peer is shutil.copyfile (sendfile) and an fsync per file, like `cp` and `sync`. The limit is this copy
  beside a thread that computes the SHA-256, which each part of a snapshot needs.
- `pack, no fsync of the copy`: the system writes the rest outside the measured time.
- `pack, checksummed copy`: the copy computes the SHA-256 too.
- `pack, a copy a core`: the peer copies with one thread per core.
- `pack in one process`: ours runs one task after the other, with a few threads in each.

The result is megabytes of packed shards per second; each packed image must have the bytes of its raw image.
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

from benchmarks.inputs.image_server import load_photographs, make_jpeg
from benchmarks.measure import Row, finish, make_parser, time_in_turn
from dataops.digest import file_sha256
from dataops.schema import CURATED, DOWNLOADED, conform, dropped_schema, uid
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import Counts, Draft, Manifest, Part, Record, content_digest
from dataops.store import FolderStore, Store
from tasks.engine.context import Context
from tasks.engine.map_parts import shared_workers
from tasks.engine.stage import make, plan
from tasks.pack import stage as pack
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK

PER_SHARD, DISTINCT, SIDE, GOAL = 10_000, 400, 256, 0.7


def measure_pack(quick: bool) -> list[Row]:
    """Measure packing beside the ways of copying."""
    with tempfile.TemporaryDirectory() as name:
        store = FolderStore(Path(name) / "store")
        run = Runs(store, *write_snapshots(store, 5_000 if quick else 40_000))
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
            found = [run.compare(size, *case, times) for case in cases]
            seconds, _, _, _ = time_in_turn(run.copy_beside_checksum, run.checksum, times, run.clock)
            return [replace(found[0], limit=size / seconds), *found[1:]]


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Let the stage run its tasks in this process, one after the other."""

    def serially(
        function: Callable[..., Record], tasks: Sequence[object], draft: Draft, context: object
    ) -> list[Record]:
        return [draft.finish(function(draft, task)) for task in tasks]

    with patch.object(pack, "map_parts", serially):
        yield


class Runs:
    """The measured runs: each starts without the output of the last one, and with nothing left to write to disk."""

    def __init__(self, store: FolderStore, curate: Manifest, download: Manifest):
        self.store, self.curate, self.download = store, curate, download
        self.made: Manifest | None = None
        self.context = Context(store, store.root)
        self._untimed = 0.0

    def compare(
        self,
        size: float,
        case: str,
        ours: Callable[[], None],
        peer: Callable[[], None],
        peer_name: str,
        goal: float | None,
        times: int,
    ) -> Row:
        """Measure one case, over `size` megabytes."""
        seconds, theirs, _, _ = time_in_turn(ours, peer, times, self.clock)
        self.check()
        return Row(case, size / seconds, size / theirs, peer_name, "MB/s", goal)

    def clock(self) -> float:
        """Return the time in seconds, without that of preparations."""
        return time.perf_counter() - self._untimed

    def warm_up(self) -> int:
        """Pack once, keep the shards for the peers, and fill the page cache; return the size of the shards in bytes."""
        self.ours()
        assert self.made is not None
        for part in self.made.named("", ".tar"):
            shutil.copyfile(self.store.local(self.made.path(part.name)), self._folder("packed") / part.name)
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
        target = self._folder("copied")

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
        self._untimed += time.perf_counter() - started

    def _folder(self, stage: str) -> Path:
        folder = self.store.root / stage
        folder.mkdir(exist_ok=True)
        return folder

    def _shards(self) -> list[Path]:
        return sorted((self.store.root / "packed").iterdir())

    def check(self) -> None:
        """Check the packed images. Raises: ValueError if one differs from the downloaded image."""
        assert self.made is not None
        raw, packed = (self._digest_images(manifest) for manifest in (self.download, self.made))
        if len(packed) != self.made.counts.kept or any(raw[key] != digest for key, digest in packed.items()):
            raise ValueError("a packed image differs from the downloaded one")

    def _digest_images(self, manifest: Manifest) -> dict[str, bytes]:
        found = {}
        for part in manifest.named("", ".tar"):
            with self.store.open(manifest.path(part.name)) as file:
                found |= {key: hashlib.sha256(s["jpg"]).digest() for key, s in read_samples(file, part.name)}
        return found


def write_snapshots(store: Store, number: int, side: int = SIDE) -> tuple[Manifest, Manifest]:
    """Write snapshots of curate and download with `number` pairs and images of `side` pixels; return their manifests."""
    photos = load_photographs()
    images = [_scale(make_jpeg(photos, n), side) for n in range(DISTINCT)]
    raw, kept = Draft(store, "download", "d" * 16), Draft(store, "curate", "c" * 16)
    raw_parts: list[Part] = []
    parts: list[Part] = []
    size = min(number, PER_SHARD)
    for start in range(0, number, size):
        name = f"{start // size:05d}"
        table = _make_rows(range(start, start + size), f"{name}.tar")
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
    download = _commit(raw, raw_parts, Counts(input=number, kept=number), {"encode_format": "jpg"})
    return _commit(kept, parts, Counts(input=number, kept=number - drops, dropped={"too_small": drops}), {}), download


def _scale(data: bytes, side: int) -> bytes:
    sink = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((side, side), Image.Resampling.LANCZOS).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def _make_rows(numbers: range, shard: str) -> pa.Table:
    captions = [f"picture {n} of a list, with a caption of about the usual length" for n in numbers]
    urls = [f"https://images.example-{n % 97}.org/galleries/2024/{n % 11}/{n}.jpg" for n in numbers]
    uids = [uid(url, caption) for url, caption in zip(urls, captions, strict=True)]
    columns = {
        "uid": uids, "key": uids, "url": urls, "caption": captions, "page_url": urls, "language": ["en"] * len(captions),
        "source": ["crawl-data/CC-MAIN-2024-10/segments/1/warc/a.warc.gz"] * len(captions),
        "status": ["success"] * len(captions),
        "sha256": [hashlib.sha256(url.encode()).hexdigest() for url in urls], "shard": [shard] * len(captions),
        "width": [SIDE] * len(captions), "height": [SIDE] * len(captions), "original_width": [800] * len(captions),
        "original_height": [600] * len(captions), "phash": ["0123456789abcdef"] * len(captions),
    }  # fmt: skip
    return pa.table(columns)


def _commit(draft: Draft, parts: list[Part], counts: Counts, config: dict[str, str]) -> Manifest:
    return draft.commit(
        Manifest(
            stage=draft.stage, stage_version=1, key=draft.key, inputs=[], config=config, seed=0, code={}, parts=parts,
            counts=counts, content_digest=content_digest(parts), created_at="",
        )
    )  # fmt: skip


def main() -> int:
    """Measure packing alone."""
    options = make_parser(str(__doc__)).parse_args()
    return finish(
        "curate", measure_pack(options.quick), ["pyarrow", "polars", "msgspec"], equal=True, as_json=options.json
    )


if __name__ == "__main__":
    raise SystemExit(main())
