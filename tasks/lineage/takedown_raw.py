"""Deletes what was taken down where it came from: raw shards, kept originals, and the dataset versions that still hold it.

A raw snapshot is written anew under its own key, as a reopened download is (tasks/download/rounds.py): its digest changes,
so the next run of its config judges and packs the remaining rows again, and fetches nothing. New objects stand beside the
old ones until the manifest is replaced, so a kill leaves the old snapshot whole or the new one.
"""

import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dataops.schema import DOWNLOADED, conform, dropped
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import MANIFEST, Counts, Draft, Manifest, Part, content_digest, read_table
from dataops.trace.targets import Target, matching_rows
from tasks.download.fetch.originals import Originals
from tasks.engine.context import Context
from tasks.engine.lease import hold
from tasks.lineage.garbage_collection import delete_snapshot
from tasks.lineage.graph import KEPT, Lineage
from tasks.lineage.search import Rows, Search
from tasks.pack.shard import TAKEDOWN

logger = logging.getLogger(__name__)


@dataclass
class RawSnapshot:
    """A raw snapshot that holds pictures of what is to be taken out, and its parts that do."""

    download: Manifest
    parts: list[Part]
    pairs: int


def find_raw_snapshots(
    lineage: Lineage, search: Search, targets: Sequence[Target], uids: set[str]
) -> list[RawSnapshot]:
    """The downloads that hold such pictures.

    Args:
        uids: pairs that are known to be matching_rows, as by a phash, which a raw row does not have.
    """
    named = [*targets, *(Target("uid", uid) for uid in sorted(uids))]
    found: list[RawSnapshot] = []
    for manifest in lineage.manifests.values():
        hits = search.find(Rows(manifest, KEPT), named) if manifest.stage == "download" else []
        if hits:
            parts = {hit.part.name: hit.part for hit in hits}
            found.append(RawSnapshot(manifest, [parts[name] for name in sorted(parts)], len(hits)))
    return found


def delete_raw(context: Context, raw: RawSnapshot, targets: Sequence[Target], uids: set[str]) -> list[str]:
    """Write a raw snapshot anew without what was taken down; the addresses of the pictures that are gone.

    Raises: ConfigError that names the run that makes it now, where one does.
    """
    manifest = raw.download
    draft = Draft(context.store, manifest.stage, manifest.key)
    named = [*targets, *(Target("uid", uid) for uid in uids)]
    with hold(draft, context, wait=False, remake=True) as held:
        assert held is not None
        parts, old, gone = {part.name: part for part in manifest.parts}, list[str](), list[str]()
        for part in raw.parts:
            replaced, fresh, lost = _without(held.draft, manifest, part, named)
            for name in replaced:
                del parts[name]
            parts |= {one.name: one for one in fresh}
            old, gone = old + replaced, gone + lost
        after = _manifest(manifest, list(parts.values()), len(gone))
        held.draft.check_fence()
        draft.store.put(draft.path(MANIFEST), after.model_dump_json(indent=2).encode())
        draft.store.delete([draft.path(name) for name in old])
        draft.store.delete_tree(draft.path("trace"))  # the index of rows that are gone
    return gone


def _without(
    draft: Draft, manifest: Manifest, part: Part, named: Sequence[Target]
) -> tuple[list[str], list[Part], list[str]]:
    """A raw shard without some of its samples: the names of its parts, those that replace them, the addresses that left."""
    stem = part.name.removesuffix(".parquet").removeprefix("part-")
    fresh = _next_name(stem)
    rows = read_table(draft.store, manifest.path(part.name))
    mask = matching_rows(rows, named)
    kept, left = rows.filter(pa.array(~mask)), rows.filter(pa.array(mask))
    lost = left["uid"].to_pylist()
    names = pa.array([f"{fresh}.tar"] * kept.num_rows, pa.string())
    kept = kept.set_column(kept.schema.get_field_index("shard"), DOWNLOADED.field("shard"), names)
    there = {one.name for one in manifest.parts}
    parts = [
        draft.put_bytes(f"{fresh}.tar", _tar_without(draft, manifest.path(f"{stem}.tar"), set(lost)), kept.num_rows),
        draft.put_table(f"part-{fresh}.parquet", conform(kept, DOWNLOADED, part.name)),
    ]
    gone = {"uid": lost, "drop_reason": [TAKEDOWN] * len(lost), "drop_stage": ["download"] * len(lost)}
    parts.append(draft.put_table(f"dropped-{fresh}-t.parquet", conform(pa.table(gone), dropped(DOWNLOADED), part.name)))
    replaced = [part.name, f"{stem}.tar"]
    number = re.sub(r"-r\d+$", "", stem)
    for evidence in manifest.named(f"evidence-{number}", ".parquet"):
        table = read_table(draft.store, manifest.path(evidence.name))
        table = table.filter(pa.array([uid not in set(lost) for uid in table["uid"].to_pylist()], pa.bool_()))
        parts.append(draft.put_table(f"evidence-{fresh}.parquet", table))
        replaced.append(evidence.name)
    return [name for name in replaced if name in there], parts, left["url"].to_pylist()


def _next_name(stem: str) -> str:
    """00003 becomes 00003-r1, and that 00003-r2."""
    number, _, again = stem.partition("-r")
    return f"{number}-r{int(again or 0) + 1}"


def _tar_without(draft: Draft, name: str, gone: set[str]) -> bytes:
    out = io.BytesIO()
    writer = ShardWriter(out)
    with draft.store.open(name) as file:
        for key, members in read_samples(file, name):
            if key not in gone:
                writer.write(key, members)
    writer.close()
    return out.getvalue()


def _manifest(manifest: Manifest, parts: list[Part], gone: int) -> Manifest:
    counts = manifest.counts
    reasons = Counter(counts.dropped) + Counter({TAKEDOWN: gone})
    counts = Counts(input=counts.input, kept=counts.kept - gone, dropped=dict(sorted(reasons.items())))
    facts = {**manifest.facts, "samples": counts.kept}
    ordered = sorted(parts, key=lambda part: part.name)
    changed = {"parts": ordered, "counts": counts, "facts": facts, "content_digest": content_digest(ordered)}
    return manifest.model_copy(update=changed)


def delete_originals(folders: Sequence[Path], urls: Sequence[str]) -> int:
    """Delete the bytes as fetched that are kept for these addresses; how many there were."""
    dropped_ = 0
    for folder in folders:
        kept = Originals(folder)
        for url in urls:
            if kept.get(url) is not None:
                kept.drop(url)
                dropped_ += 1
    return dropped_


def delete_superseded(context: Context, manifest: Manifest) -> str | None:
    """Delete a dataset version that has a next one; why it was not, where it was not."""
    return delete_snapshot(Draft(context.store, manifest.stage, manifest.key), context)
