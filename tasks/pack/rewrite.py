"""A dataset version from an earlier one, less what a takedown means: only the shards that hold any of it are written anew.

The others are linked (on S3: copied by the server), so their sha256 stays. The bytes are those that packing from the raw
shards would give.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.schema import PACKED, conform
from dataops.shards.tar import read_samples
from dataops.snapshot import MANIFEST, Draft, Input, Manifest, Part, Record, find_manifest, read_table
from dataops.store import Store
from dataops.trace.targets import Target, matching_rows
from tasks.engine.stage import Work
from tasks.engine.takedown_requests import STAGE
from tasks.pack.config import PackConfig
from tasks.pack.shard import make_record, write_shard
from tasks.pack.summary import summarise


@dataclass(frozen=True)
class EarlierShard:
    """One task: a shard of an earlier version."""

    number: str
    base: Manifest
    taken: tuple[Target, ...]

    @property
    def id(self) -> str:
        return f"shard-{self.number}"


def find_earlier_version(work: Work[PackConfig], version: int) -> Manifest | None:
    """The version with the most of the takedowns that is the same but for those; None where there is none.

    Args:
        version: of the pack stage.
    """
    store, config = work.draft.store, work.config.key_config()
    mine, wanted = _split(work.made_of)
    found: list[tuple[int, str, Manifest]] = []
    for key in sorted({name.split("/")[1] for name in store.names("pack") if name.endswith(f"/{MANIFEST}")}):
        try:
            other = find_manifest(store, "pack", key)
        except CorruptPart:
            continue
        if other is None or (other.stage_version, other.config, other.seed) != (version, config, work.seed):
            continue
        theirs, heeded = _split(other.inputs)
        if theirs == mine and heeded < wanted:
            found.append((len(heeded), other.key, other))
    return max(found, key=lambda one: one[:2])[2] if found else None


def _split(inputs: Iterable[Input]) -> tuple[list[tuple[str, str]], set[str]]:
    """What a version was made of, and the takedowns that it heeds."""
    inputs = list(inputs)
    return [(i.stage, i.digest) for i in inputs if i.stage != STAGE], {i.key for i in inputs if i.stage == STAGE}


def list_shards(base: Manifest, taken: tuple[Target, ...]) -> list[EarlierShard]:
    """A task a shard of the earlier version, also of those that have nothing left."""
    numbers = {p.name.removesuffix(".parquet").partition("-")[2] for p in base.parts if p.name.endswith(".parquet")}
    return [EarlierShard(number, base, taken) for number in sorted(numbers)]


def rewrite_shard(draft: Draft, shard: EarlierShard) -> Record:
    """Take one shard over, or write it anew without what was taken out."""
    base, store = shard.base, draft.store
    there = {part.name: part for part in base.parts}
    before: list[str] = []
    if (gone := there.get(f"dropped-{shard.number}.parquet")) is not None:
        before = read_table(store, base.path(gone.name), ["uid"])["uid"].to_pylist()
    if (part := there.get(f"part-{shard.number}.parquet")) is None:
        return make_record(draft, shard.number, 0, [], summarise(PACKED.empty_table()), before)
    rows = read_table(store, base.path(part.name))
    mask = matching_rows(rows, shard.taken)
    lost = [*before, *rows.filter(pa.array(mask))["uid"].to_pylist()]
    if not mask.any():
        names = (f"{shard.number}.tar", f"{shard.number}.idx", part.name)
        parts = [_taken_over(draft, base, there[name]) for name in names if name in there]
        return make_record(draft, shard.number, rows.num_rows, parts, summarise(rows), lost)
    # through Polars, as tasks/pack/shard.py does: the same rows in other buffers give other bytes of Parquet
    frame = pl.DataFrame(pl.from_arrow(rows)).filter(~mask)
    kept = conform(frame.to_arrow(), PACKED, f"pack {shard.number}")
    extension, pictures = _pictures(store, base.path(f"{shard.number}.tar"), kept["key"].to_pylist())

    def read(start: int, places: list[memoryview]) -> None:
        for place, picture in zip(places, pictures[start:], strict=False):
            place[:] = picture

    parts = write_shard(draft, shard.number, kept, [len(picture) for picture in pictures], extension, read)
    return make_record(draft, shard.number, kept.num_rows, parts, summarise(kept), lost)


def _taken_over(draft: Draft, base: Manifest, part: Part) -> Part:
    draft.check_fence()
    draft.store.copy(base.path(part.name), draft.path(part.name))
    return part


def _pictures(store: Store, tar: str, keys: Sequence[str]) -> tuple[str, list[bytes]]:
    """The extension of a shard's pictures, and those of the keys in their order.

    Raises: CorruptPart when one is not there.
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
