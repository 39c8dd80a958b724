"""Delete what was taken down from raw shards and kept originals, and delete the dataset versions that still hold it.

A raw snapshot is rewritten under its own key, and keeps its digest as erased rows do (plugins/erasure/erase_rows.py): the
next run of its config uses the rows of curate and the next version of the dataset, and makes nothing again. Whoever packs
the rows of curate anew finds the shards by their numbers, and drops the pairs that were erased. New objects are written
before the manifest is replaced, and old ones deleted after it: a killed call leaves either the old snapshot or the new one,
complete, and objects that no manifest names, which the next call deletes (plugins/erasure/leftovers.py).
"""

import io
import logging
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dataops.schema import DOWNLOADED, conform, dropped_schema
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import Counts, Draft, Manifest, Part, SnapshotName, read_table
from dataops.trace.targets import Target, matching_rows
from plugins.erasure.matched_targets import matched_targets
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.lineage.inventory import Inventory, delete_snapshot
from tasks.pack.write_shard import TAKEDOWN
from tasks.search import Hit, Rows, Search

logger = logging.getLogger(__name__)


@dataclass
class RawSnapshot:
    """A download snapshot with images to remove, and their rows."""

    download: Manifest
    hits: list[Hit]

    @property
    def parts(self) -> list[Part]:
        """The parts with a match, sorted by name."""
        found = {hit.part.name: hit.part for hit in self.hits}
        return [found[name] for name in sorted(found)]


def find_raw_snapshots(lineage: Lineage, search: Search, targets: Sequence[Target]) -> list[RawSnapshot]:
    """Return the download snapshots with rows that match.

    Args:
        targets: with the uids of pairs that match by a column which raw rows lack, such as `phash`.
    """
    found: list[RawSnapshot] = []
    for manifest in lineage.manifests.values():
        hits = search.find(Rows(manifest, KEPT), targets) if manifest.stage == "download" else []
        if hits:
            found.append(RawSnapshot(manifest, hits))
    return found


def find_unmatched(
    search: Search, raw: Sequence[RawSnapshot], targets: Sequence[Target], matched: set[Target]
) -> list[Target]:
    """Return the targets that match no pair of a dataset version and no raw image, in their order.

    Args:
        matched: the targets that match a pair of a dataset version.
    """
    left = [target for target in targets if target not in matched]
    for one in raw if left else ():
        here = matched_targets(search.rows(one.hits), left)
        left = [target for target in left if target not in here]
    return left


def delete_raw(context: Context, raw: RawSnapshot, targets: Sequence[Target]) -> int:
    """Rewrite a raw snapshot without what was taken down; return the number of removed images.

    Raises: ConfigError that names the run that makes the snapshot now, if there is one.
    """
    manifest = raw.download
    draft = Draft(context.store, manifest.stage, manifest.key)
    with hold_lease(draft, context, wait=False, remake=True) as held:
        assert held is not None
        after, replaced = rewrite_shards(held.draft, manifest, raw.parts, targets)
        held.draft.replace(after)
        draft.store.delete([draft.path(name) for name in replaced])
    return manifest.counts.kept - after.counts.kept


def rewrite_shards(
    draft: Draft, manifest: Manifest, rows: Sequence[Part], targets: Sequence[Target]
) -> tuple[Manifest, list[str]]:
    """Write the shards of some parts with rows without what matches.

    Returns: the manifest that names the new parts, and the names of those that they replace.
    """
    parts, replaced, removed = {part.name: part for part in manifest.parts}, list[str](), 0
    for part in rows:
        old, new, count = _rewrite_part(draft, manifest, part, targets)
        for name in old:
            del parts[name]
        parts |= {one.name: one for one in new}
        replaced, removed = replaced + old, removed + count
    return _update_manifest(manifest, list(parts.values()), removed), replaced


def _rewrite_part(
    draft: Draft, manifest: Manifest, part: Part, targets: Sequence[Target]
) -> tuple[list[str], list[Part], int]:
    """Write a raw shard without the matching samples; return the old part names, the new parts, and the removed rows."""
    existing = {one.name for one in manifest.parts}
    stem = part.name.removesuffix(".parquet").removeprefix("part-")
    new_stem = _next_stem(stem, existing)
    rows = read_table(draft.store, manifest.path(part.name))
    mask = matching_rows(rows, targets)
    kept, removed = rows.filter(pa.array(~mask)), rows.filter(pa.array(mask))
    uids = removed["uid"].to_pylist()
    shards = pa.array([f"{new_stem}.tar"] * kept.num_rows, pa.string())
    kept = kept.set_column(kept.schema.get_field_index("shard"), DOWNLOADED.field("shard"), shards)
    tar = _tar_without(draft, manifest.path(f"{stem}.tar"), set(uids))
    reasons = {"uid": uids, "drop_reason": [TAKEDOWN] * len(uids), "drop_stage": ["download"] * len(uids)}
    dropped_rows = conform(pa.table(reasons), dropped_schema(DOWNLOADED), part.name)
    parts = [
        draft.put_bytes(f"{new_stem}.tar", tar, kept.num_rows),
        draft.put_table(f"part-{new_stem}.parquet", conform(kept, DOWNLOADED, part.name)),
        draft.put_table(f"dropped-{new_stem}-t.parquet", dropped_rows),
    ]
    replaced = [part.name, f"{stem}.tar"]
    evidence = re.compile(rf"evidence-{stem.partition('-r')[0]}(-r\d+)?\.parquet")
    for old in filter(evidence.fullmatch, sorted(existing)):
        table = read_table(draft.store, manifest.path(old))
        table = table.filter(pa.array([uid not in set(uids) for uid in table["uid"].to_pylist()], pa.bool_()))
        parts.append(draft.put_table(f"evidence-{new_stem}.parquet", table))
        replaced.append(old)
    return [name for name in replaced if name in existing], parts, removed.num_rows


def _next_stem(stem: str, existing: Collection[str]) -> str:
    """Return 00003-r1 for 00003, and 00003-r2 if there is a part with -r1.

    The parts of a shard may have different revisions, since `erase_rows` rewrites only those with a row to erase.
    """
    number = stem.partition("-r")[0]
    revisions = [int(found) for name in existing for found in re.findall(rf"\b{number}-r(\d+)\b", name)]
    return f"{number}-r{max(revisions, default=0) + 1}"


def _tar_without(draft: Draft, name: str, removed: set[str]) -> bytes:
    out = io.BytesIO()
    writer = ShardWriter(out)
    with draft.store.open(name) as file:
        for key, members in read_samples(file, name):
            if key not in removed:
                writer.write(key, members)
    writer.close()
    return out.getvalue()


def _update_manifest(manifest: Manifest, parts: list[Part], removed: int) -> Manifest:
    counts = manifest.counts
    reasons = Counter(counts.dropped) + Counter({TAKEDOWN: removed})
    counts = Counts(input=counts.input, kept=counts.kept - removed, dropped=dict(sorted(reasons.items())))
    facts = {**manifest.facts, "samples": counts.kept}
    ordered = sorted(parts, key=lambda part: part.name)
    return manifest.model_copy(update={"parts": ordered, "counts": counts, "facts": facts})


def find_uids_by_phash(lineage: Lineage, search: Search, targets: Sequence[Target]) -> set[str]:
    """Return the uids of the pairs that match a phash, which only `curate` computes."""
    hashes = [target for target in targets if target.kind == "phash"]
    curated = [manifest for manifest in lineage.manifests.values() if hashes and manifest.stage == "curate"]
    hits = [hit for m in curated for prefix in (KEPT, DROPPED) for hit in search.find(Rows(m, prefix), hashes)]
    return {row["uid"] for row in search.rows(hits)}


def find_urls(search: Search, raw: Sequence[RawSnapshot]) -> list[str]:
    """Return the URLs of the images to remove."""
    return sorted({row["url"] for one in raw for row in search.rows(one.hits)})


def delete_superseded(context: Context, manifest: Manifest) -> str | None:
    """Delete a dataset version that has a next version; return why it was kept, if it was."""
    name = SnapshotName(manifest.stage, manifest.key)
    shared = Inventory(context.store, manifest.stage).list_shared(name)
    return delete_snapshot(Draft(context.store, *name), context, shared)
