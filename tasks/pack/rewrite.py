"""Make a dataset version from an earlier one, without the pairs that a takedown removes.

Only the shards that hold such pairs are read and written again. The others are linked; on S3 the manifest names the version
that has them. The bytes equal those of packing from the raw shards.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import polars as pl
import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.facts import PackFacts
from dataops.schema import conform
from dataops.shards.tar import read_samples
from dataops.snapshot import INDEX, Counts, Draft, Manifest, Part, Record, fetch_table, find_manifest, snapshot_key
from dataops.text.tallies import Tally
from dataops.trace.requests import STAGE
from dataops.trace.targets import Target, matching_rows
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Work
from tasks.pack.config import PackConfig
from tasks.pack.summary import TOTALS, add_tallies, load_totals, summarise
from tasks.pack.write_shard import TAKEDOWN, DroppedPair, copy_images, make_record, write_shard
from tasks.search import load_applied, save_applied, select_parts


class Rewritten(NamedTuple):
    """A version that was made from an earlier one."""

    parts: list[Part]
    counts: Counts
    totals: Mapping[str, Tally]
    """Number of pairs with each value, by kind."""
    shards: int
    """Number of shards, also of those that have no pair left."""


@dataclass(frozen=True)
class EarlierShard:
    """A task: one shard of an earlier version."""

    number: str
    base: Manifest
    """The version, with no parts but those of the shard."""
    takedowns: tuple[Target, ...]
    """The targets of the requests since the version."""

    @property
    def id(self) -> str:
        return f"shard-{self.number}"


def find_earlier_version(work: Work[PackConfig], version: int) -> Manifest | None:
    """Return the newest complete version that differs only in its takedowns and has fewer; None where there is none.

    Args:
        version: of the pack stage.
    """
    store, config = work.draft.store, work.config.key_config()
    sources = [one for one in work.made_of if one.stage != STAGE]
    applied = {one.key: one for one in work.made_of if one.stage == STAGE}

    def key_of(requests: Iterable[str]) -> str:
        inputs = [*sources, *(applied[request] for request in requests)]
        return snapshot_key("pack", version, config, work.seed, inputs)

    dataset, found = key_of([]), None
    known = load_applied(store, dataset)
    for requests in [*reversed(known.versions), []]:
        if found is None and applied.keys() > {*requests}:
            with suppress(CorruptPart):
                found = find_manifest(store, "pack", key_of(requests))
    save_applied(store, dataset, known, applied.values())
    return found


def rewrite(work: Work[PackConfig], base: Manifest, takedowns: tuple[Target, ...], context: Context) -> Rewritten:
    """Write the shards of an earlier version again that hold a pair to remove; the others are parts of this version too."""
    draft, chosen = work.draft, base.named("part-", ".parquet")
    totals = load_totals(draft.store, base)
    if totals is not None:  # an older pairmill has none: all rows are read
        chosen = select_parts(draft.store, base, chosen, takedowns)
    of_shard = defaultdict[str, list[Part]](list)
    for part in base.parts:
        of_shard[_number_of(part)].append(part)
    shards = [
        EarlierShard(number, base.model_copy(update={"parts": of_shard.pop(number)}), takedowns)
        for number in map(_number_of, chosen)
    ]
    records = map_parts(rewrite_shard, shards, draft, context)
    rest = [part for number, parts in of_shard.items() if number for part in parts]
    tallies = [tally for record in records for tally in record.facts["shards"]]
    if totals is not None:
        removed = [tally for record in records for tally in record.facts["before"]]
        totals = add_tallies([totals, *tallies], removed)
        rest += [part for part in base.named(INDEX) if part.name != TOTALS]
    written = [part for record in records for part in record.parts] + _keep_parts(draft, base, rest)
    removed_pairs = base.counts.kept - sum(part.rows for part in written if part.name.startswith("part-"))
    return Rewritten(
        sorted(written, key=lambda part: part.name),
        base.counts + Counts(kept=-removed_pairs, dropped={TAKEDOWN: removed_pairs}),
        totals or add_tallies(tallies),
        PackFacts.of(base).shards,
    )


def _number_of(part: Part) -> str:
    """Return the number of the shard to which a part belongs; empty for pages and the index."""
    found = re.fullmatch(r"(?:part-|dropped-)?(\d+)\.\w+", part.name)
    return found[1] if found else ""


def _keep_parts(draft: Draft, base: Manifest, parts: Sequence[Part]) -> list[Part]:
    """Return parts of an earlier version as those of this one. In a folder they are linked, so that it has all shards."""
    if draft.store.is_remote:
        return [part.model_copy(update={"home": part.home or f"{base.stage}/{base.key}"}) for part in parts]
    draft.check_fence()
    for part in parts:
        draft.store.copy(base.path(part.name), draft.path(part.name))
    return [*parts]


def rewrite_shard(draft: Draft, shard: EarlierShard) -> Record:
    """Write one shard again without the pairs that the takedowns remove; keep it if it has none."""
    base, store = shard.base, draft.store
    by_name = {part.name: part for part in base.parts}
    part = by_name.get(f"dropped-{shard.number}.parquet")
    left = fetch_table(store, base.path(part.name), list(DroppedPair._fields)).to_pylist() if part else []
    dropped = [DroppedPair(**row) for row in left]
    rows = fetch_table(store, base.path(f"part-{shard.number}.parquet"))
    mask = matching_rows(rows, shard.takedowns)
    before = {"before": [summarise(rows)]}
    if not mask.any():
        record = make_record(draft, shard.number, rows.num_rows, [], summarise(rows), [])
        return record.model_copy(update={"parts": _keep_parts(draft, base, base.parts), "facts": record.facts | before})
    dropped += map(DroppedPair, rows.filter(pa.array(mask))["uid"].to_pylist())
    # through Polars, as tasks/pack/write_shard.py does: the same rows in other buffers give other bytes of Parquet
    frame = pl.DataFrame(pl.from_arrow(rows)).filter(~mask)
    kept = conform(frame.to_arrow(), rows.schema, f"pack {shard.number}")
    tar, keys = by_name[f"{shard.number}.tar"], kept["key"].to_pylist()
    with store.open_sized(base.path(tar.name), tar.bytes) as file:
        extension, images = _read_images(file, base.path(tar.name), keys)

    def read(start: int, buffers: list[memoryview]) -> None:
        copy_images(images[start : start + len(buffers)], buffers)

    with draft.checked_once():
        parts = write_shard(draft, shard.number, kept, [len(image) for image in images], extension, read)
        record = make_record(draft, shard.number, kept.num_rows, parts, summarise(kept), dropped)
    return record.model_copy(update={"facts": record.facts | before})


def _read_images(file: BinaryIO, tar: str, keys: Sequence[str]) -> tuple[str, list[bytes]]:
    """Return the file name extension of a shard's images, and the images of the keys in their order.

    Raises: CorruptPart, which names a sample that is missing.
    """
    extension, found, wanted = "", dict[str, bytes](), set(keys)
    for key, sample in read_samples(file, tar):
        extension = next(iter(sample))  # a sample's first member
        if key in wanted:
            found[key] = sample[extension]
    if missing := wanted - found.keys():
        raise CorruptPart(f"{tar}: no sample {min(missing)}, which its rows name")
    return extension, [found[key] for key in keys]
