"""Make a dataset version from an earlier one, without the pairs that a takedown removes.

Only the shards that hold such pairs are written again. The others are linked (on S3: copied by the server), so their
sha256 stays. The bytes equal those of packing from the raw shards.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.schema import CURATED, conform
from dataops.shards.tar import read_samples
from dataops.snapshot import MANIFEST, Draft, Input, Manifest, Part, Record, find_manifest, read_table
from dataops.store import Store
from dataops.trace.requests import STAGE
from dataops.trace.targets import Target, matching_rows
from tasks.engine.stage import Work
from tasks.pack.config import PackConfig
from tasks.pack.summary import summarise
from tasks.pack.write_shard import DroppedPair, copy_images, make_record, write_shard


@dataclass(frozen=True)
class EarlierShard:
    """A task: one shard of an earlier version."""

    number: str
    base: Manifest
    takedowns: tuple[Target, ...]

    @property
    def id(self) -> str:
        return f"shard-{self.number}"


def find_earlier_version(work: Work[PackConfig], version: int) -> Manifest | None:
    """Return the version that differs only in its takedowns and has the most of them; None where there is none.

    Args:
        version: of the pack stage.
    """
    store, config = work.draft.store, work.config.key_config()
    sources, takedowns = _split(work.made_of)
    found: list[tuple[int, str, Manifest]] = []
    for key in sorted({name.split("/")[1] for name in store.names("pack") if name.endswith(f"/{MANIFEST}")}):
        try:
            other = find_manifest(store, "pack", key)
        except CorruptPart:
            continue
        if other is None or (other.stage_version, other.config, other.seed) != (version, config, work.seed):
            continue
        other_sources, other_takedowns = _split(other.inputs)
        if other_sources == sources and other_takedowns < takedowns:
            found.append((len(other_takedowns), other.key, other))
    return max(found, key=lambda candidate: candidate[:2])[2] if found else None


def _split(inputs: Iterable[Input]) -> tuple[list[tuple[str, str]], set[str]]:
    """Return the snapshots that a version was made of, and the keys of the takedowns that it applies."""
    inputs = list(inputs)
    return [(i.stage, i.digest) for i in inputs if i.stage != STAGE], {i.key for i in inputs if i.stage == STAGE}


def list_shards(base: Manifest, takedowns: tuple[Target, ...]) -> list[EarlierShard]:
    """Return a task for each shard of the earlier version, also for those that have no row left."""
    numbers = {p.name.removesuffix(".parquet").partition("-")[2] for p in base.parts if p.name.endswith(".parquet")}
    return [EarlierShard(number, base, takedowns) for number in sorted(numbers)]


def rewrite_shard(draft: Draft, shard: EarlierShard) -> Record:
    """Link one shard, or write it again without the pairs that the takedowns remove."""
    base, store = shard.base, draft.store
    by_name = {part.name: part for part in base.parts}
    dropped: list[DroppedPair] = []
    if (part := by_name.get(f"dropped-{shard.number}.parquet")) is not None:
        left = read_table(store, base.path(part.name), list(DroppedPair._fields))
        dropped = [DroppedPair(**row) for row in left.to_pylist()]
    if (part := by_name.get(f"part-{shard.number}.parquet")) is None:
        return make_record(draft, shard.number, 0, [], summarise(CURATED.empty_table()), dropped)
    rows = read_table(store, base.path(part.name))
    mask = matching_rows(rows, shard.takedowns)
    dropped += map(DroppedPair, rows.filter(pa.array(mask))["uid"].to_pylist())
    if not mask.any():
        names = (f"{shard.number}.tar", f"{shard.number}.idx", part.name)
        parts = [_link_part(draft, base, by_name[name]) for name in names if name in by_name]
        return make_record(draft, shard.number, rows.num_rows, parts, summarise(rows), dropped)
    # through Polars, as tasks/pack/write_shard.py does: the same rows in other buffers give other bytes of Parquet
    frame = pl.DataFrame(pl.from_arrow(rows)).filter(~mask)
    kept = conform(frame.to_arrow(), rows.schema, f"pack {shard.number}")
    extension, images = _read_images(store, base.path(f"{shard.number}.tar"), kept["key"].to_pylist())

    def read(start: int, buffers: list[memoryview]) -> None:
        copy_images(images[start : start + len(buffers)], buffers)

    parts = write_shard(draft, shard.number, kept, [len(image) for image in images], extension, read)
    return make_record(draft, shard.number, kept.num_rows, parts, summarise(kept), dropped)


def _link_part(draft: Draft, base: Manifest, part: Part) -> Part:
    draft.check_fence()
    draft.store.copy(base.path(part.name), draft.path(part.name))
    return part


def _read_images(store: Store, tar: str, keys: Sequence[str]) -> tuple[str, list[bytes]]:
    """Return the file name extension of a shard's images, and the images of the keys in their order.

    Raises: CorruptPart, which names a sample that is missing.
    """
    extension, found, wanted = "", dict[str, bytes](), set(keys)
    with store.open(tar) as file:
        for key, sample in read_samples(file, tar):
            extension = next(iter(sample))  # a sample's first member
            if key in wanted:
                found[key] = sample[extension]
    if missing := wanted - found.keys():
        raise CorruptPart(f"{tar}: no sample {min(missing)}, which its rows name")
    return extension, [found[key] for key in keys]
