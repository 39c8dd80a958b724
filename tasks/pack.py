"""The pack stage: what curation left, as the versioned dataset that training reads.

For shard i the snapshot holds `{i:05d}.tar`, with the samples `{key}.jpg`, `{key}.txt`, `{key}.json` in the order of the
raw shards and, within one, of their keys, and `part-{i:05d}.parquet` with their rows. The picture's bytes are those of the
raw shard, the keys those of the download (the uids), so a member can be followed back. The same rows give the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
from pydantic import Field

from dataops.config import StageConfig
from dataops.digest import canonical_json
from dataops.errors import ContractError, CorruptPart
from dataops.schema import PACKED, conform
from dataops.shards import ShardWriter, read_samples
from dataops.snapshot import Counts, Draft, Manifest, Record
from dataops.store import Store
from tasks import slices
from tasks.parts import map_parts
from tasks.scratch import scratch_folder
from tasks.slices import Slice
from tasks.stage import Made, Stage, Work, gather


class PackConfig(StageConfig):
    """`[pack]`: the training shards."""

    shard_size: int = Field(default=10_000, ge=1, le=100_000)
    """Samples a shard; the last may have fewer."""


@dataclass(frozen=True)
class TrainingShard:
    """One task: a training shard, and the rows and raw shards that it is made of."""

    index: int
    rows: tuple[Slice, ...]
    raw_folder: str
    image_extension: str

    @property
    def number(self) -> str:
        return f"{self.index:05d}"

    @property
    def id(self) -> str:
        return f"shard-{self.number}"


def make(work: Work) -> Made:
    """Pack all shards.

    Raises: ContractError, with the numbers of rows on the way, when curation left nothing.
    """
    config: PackConfig = work.config
    curate, download = work.inputs["curate"], work.inputs["download"]
    cuts = slices.cut(curate, config.shard_size)
    if not cuts:
        msg = f"no pair is left to pack: {_told(download)}; {_told(curate)}"
        raise ContractError(msg)
    extension = str(download.config["encode_format"])
    folder = download.path("").rstrip("/")
    shards = [TrainingShard(index, rows, folder, extension) for index, rows in enumerate(cuts)]
    parts, counts = gather(map_parts(pack_shard, shards, work.draft, work.context))
    size = sum(part.bytes for part in parts if part.name.endswith(".tar"))
    return Made(parts, counts, {"samples": counts.kept, "shards": len(shards), "bytes": size})


def _told(manifest: Manifest) -> str:
    counts = manifest.counts
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(counts.dropped.items(), key=lambda x: -x[1]))
    return f"{manifest.stage} kept {counts.kept:,} of {counts.input:,}" + (f" ({reasons})" if reasons else "")


def pack_shard(draft: Draft, shard: TrainingShard) -> Record:
    """Write one training shard and its rows."""
    rows = slices.read(draft.store, shard.rows)
    rows = rows.sort_by([("shard", "ascending"), ("key", "ascending")]).combine_chunks()
    name = f"{shard.number}.tar"
    packed = rows.set_column(rows.schema.get_field_index("shard"), "shard", pa.array([name] * rows.num_rows))
    packed = conform(packed, PACKED, f"pack {name}")
    with scratch_folder("pack") as folder:
        path = folder / name
        with path.open("wb") as file:
            writer = ShardWriter(file)
            for row, image in zip(packed.to_pylist(), raw_images(draft.store, rows, shard), strict=True):
                writer.write(row["key"], members(row, image, shard.image_extension))
            writer.close()
        tar = draft.put_file(name, path, rows.num_rows)
    part = draft.put_table(f"part-{shard.number}.parquet", packed)
    counts = Counts(input=rows.num_rows, kept=rows.num_rows)
    return Record(task=shard.id, parts=[tar, part], counts=counts)


def members(row: dict[str, Any], image: bytes, extension: str) -> dict[str, bytes]:
    """The members of a sample: picture, caption, and all its columns as canonical JSON."""
    return {extension: image, "txt": row["caption"].encode(), "json": canonical_json(row).encode()}


def raw_images(store: Store, rows: pa.Table, shard: TrainingShard) -> Iterator[bytes]:
    """The picture of each row, from the raw shard that its column `shard` names; rows in the order of raw shards and keys.

    Raises: CorruptPart that names the picture that is not there.
    """
    places = zip(rows["shard"].to_pylist(), rows["key"].to_pylist(), strict=True)
    for raw, group in groupby(places, key=lambda place: place[0]):
        name = f"{shard.raw_folder}/{raw}"
        with store.open(name) as file:
            samples = read_samples(file, name)
            for _, key in group:
                found = next((sample for at, sample in samples if at == key), {})
                if shard.image_extension not in found:
                    msg = f"{name}: no {key}.{shard.image_extension}, which a row of curate names"
                    raise CorruptPart(msg)
                yield found[shard.image_extension]


PACK = Stage(name="pack", version=3, make=make)
