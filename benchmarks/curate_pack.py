"""Compare packing with copying: the case `pack` of benchmarks/curate.py.

The input is four raw shards of 10,000 samples with images of 256 pixels (about 40 kB); curate drops one in twenty.
(With `--quick` it is two shards, one for each of two cores, and the fixed cost of a run is more of the time.)

Ours is the whole pack stage as in `pairmill run`, with one worker process per core (already started): headers,
order, exchange, shards, their SHA-256, indexes, Parquet parts and pages, all written to disk. The peer copies the
packed shards in the same file system. All read from a warm page cache, and the output of earlier runs is deleted
outside the measured time.

The peer is shutil.copyfile (sendfile) and an fsync per file, like `cp` and `sync`. The limit is this copy beside a
thread that computes the SHA-256, which each part of a snapshot needs.

The result is megabytes of packed shards per second; each packed image must have the bytes of its raw image.
"""

import hashlib
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.inputs.raw_shards import write_snapshots
from benchmarks.measure import Row, time_in_turn
from dataops.digest import file_sha256
from dataops.shards.tar import read_samples
from dataops.store import FolderStore
from tasks.engine.context import Context
from tasks.engine.map_parts import shared_workers
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK

GOAL = 0.7


def measure_pack(quick):
    """Measure packing beside the ways of copying."""
    with tempfile.TemporaryDirectory() as name:
        store = FolderStore(Path(name) / "store")
        run = Runs(store, *write_snapshots(store, 20_000 if quick else 40_000))
        with shared_workers(run.context) as run.context:
            size, times = run.warm_up() / 1e6, 3 if quick else 7
            ours, copy, _, _ = time_in_turn(run.ours, run.copy, times, run.clock)
            run.check()
            limit, _, _, _ = time_in_turn(run.copy_beside_checksum, run.checksum, times, run.clock)
            return [Row("pack", size / ours, size / copy, "copy, fsync", "MB/s", GOAL, size / limit)]


class Runs:
    """The measured runs: each starts without the output of the last one, and with nothing left to write to disk."""

    def __init__(self, store, curate, download):
        self.store, self.curate, self.download = store, curate, download
        self.made = None
        self.context = Context(store, store.root)
        self._untimed = 0.0

    def clock(self):
        """Return the time, without that of deleting earlier output."""
        return time.perf_counter() - self._untimed

    def warm_up(self):
        """Pack once, keep the shards for the peers, and fill the page cache; return the size of the shards in bytes."""
        self.ours()
        for part in self.made.named("", ".tar"):
            shutil.copyfile(self.store.local(self.made.path(part.name)), self._folder("packed") / part.name)
        for path in sorted(self.store.root.rglob("*.tar")):
            path.read_bytes()
        return sum(part.bytes for part in self.made.named("", ".tar"))

    def ours(self):
        self._clear("pack")
        planned = plan(PACK, PackConfig(), 0, [self.curate, self.download])
        self.made = make(planned, self.context)

    def copy(self):
        self._clear("copied")
        target = self._folder("copied")
        for path in self._shards():
            shutil.copyfile(path, target / path.name)
            with (target / path.name).open("rb") as file:
                os.fsync(file.fileno())

    def checksum(self):
        for path in self._shards():
            file_sha256(path)

    def copy_beside_checksum(self):
        with ThreadPoolExecutor(1) as thread:
            hashed = thread.submit(self.checksum)
            self.copy()
            hashed.result()

    def _clear(self, stage):
        started = time.perf_counter()
        self.store.delete_tree(stage)
        os.sync()
        self._untimed += time.perf_counter() - started

    def _folder(self, stage):
        folder = self.store.root / stage
        folder.mkdir(exist_ok=True)
        return folder

    def _shards(self):
        return sorted((self.store.root / "packed").iterdir())

    def check(self):
        """Check the packed images. Raises: ValueError if one differs from the downloaded image."""
        raw, packed = (self._digest_images(manifest) for manifest in (self.download, self.made))
        if len(packed) != self.made.counts.kept or any(raw[key] != digest for key, digest in packed.items()):
            raise ValueError("a packed image differs from the downloaded one")

    def _digest_images(self, manifest):
        found = {}
        for part in manifest.named("", ".tar"):
            with self.store.open(manifest.path(part.name)) as file:
                found |= {key: hashlib.sha256(s["jpg"]).digest() for key, s in read_samples(file, part.name)}
        return found
