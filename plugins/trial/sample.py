"""Take a sample of a finished snapshot, as a snapshot of another store."""

import io
import math
from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa

from dataops.formatting import format_now
from dataops.parquet import read_row_range
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import Counts, Draft, Manifest, Part, content_digest
from dataops.store import Store

MIN_PARTS = 16
"""Minimum number of parts from which a sample is taken, if there are so many."""


def take_sample(source: Store, manifest: Manifest, rows: int, target: Store) -> Manifest:
    """Write the first rows of parts that are spread over a snapshot into another store, and return their manifest.

    Neighbouring rows stay together, since those of one page are evidence of its language. Raw shards keep their images.

    Raises: CorruptPart if a part cannot be read.
    """
    draft, tars = Draft(target, manifest.stage, manifest.key), {part.name for part in manifest.named("", ".tar")}
    parts: list[Part] = []
    for number, (part, size) in enumerate(_choose(manifest.named("part-", ".parquet"), rows)):
        table = _read_first(source, manifest.path(part.name), size)
        parts.append(draft.put_table(f"part-{number:05d}.parquet", table))
        tar = part.name.removeprefix("part-").removesuffix(".parquet") + ".tar"
        if tar in tars:
            shard = _cut_shard(source, manifest.path(tar), table.num_rows)
            parts.append(draft.put_bytes(f"{number:05d}.tar", shard, table.num_rows))
    total = sum(part.rows for part in parts if part.name.startswith("part-"))
    changes = {
        "parts": parts,
        "counts": Counts(input=total, kept=total),
        "content_digest": content_digest(parts),
        "created_at": format_now(),
    }
    return draft.commit(manifest.model_copy(update=changes))


def _choose(parts: Sequence[Part], rows: int) -> Iterator[tuple[Part, int]]:
    """Yield parts at equal distances, and how many rows to take of each."""
    full = [part for part in parts if part.rows]
    total = sum(part.rows for part in full)
    count = min(len(full), max(MIN_PARTS, math.ceil(rows * len(full) / max(total, 1))), rows)
    chosen = [full[index * len(full) // count] for index in range(count)]
    left, sizes = rows, dict[str, int]()
    for index, part in enumerate(sorted(chosen, key=lambda part: part.rows)):  # what a small part lacks, others give
        sizes[part.name] = min(part.rows, -(-left // (count - index)))
        left -= sizes[part.name]
    yield from ((part, sizes[part.name]) for part in chosen if sizes[part.name])


def _read_first(store: Store, name: str, rows: int) -> pa.Table:
    with store.open(name) as file:
        return read_row_range(file, f"{store.uri}/{name}", 0, rows)


def _cut_shard(store: Store, name: str, samples: int) -> bytes:
    sink = io.BytesIO()
    writer = ShardWriter(sink)
    with store.open(name) as file:
        for key, members in islice(read_samples(file, f"{store.uri}/{name}"), samples):
            writer.write(key, members)
    writer.close()
    return sink.getvalue()
