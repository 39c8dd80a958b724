"""Delete what was taken down from raw shards and kept originals, and delete the dataset versions that still hold it.

A raw snapshot is rewritten under its own key, as by a download round (tasks/download/rounds.py). Its digest changes, so the
next run of its config curates and packs the remaining rows again and fetches nothing. New objects are written before the
manifest is replaced, and old ones deleted after it: a killed call leaves either the old snapshot or the new one, complete.
"""

import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dataops.schema import DOWNLOADED, conform, dropped_schema
from dataops.shards.tar import ShardWriter, read_samples
from dataops.snapshot import MANIFEST, Counts, Draft, Manifest, Part, content_digest, read_table
from dataops.trace.targets import Target, matching_rows
from tasks.download.fetch.originals import Originals
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.lineage.garbage_collection import delete_snapshot
from tasks.lineage.graph import KEPT, Lineage
from tasks.lineage.search import Rows, Search
from tasks.pack.write_shard import TAKEDOWN

logger = logging.getLogger(__name__)


@dataclass
class RawSnapshot:
    """A download snapshot with images to remove, the parts that hold them, and the number of their pairs."""

    download: Manifest
    parts: list[Part]
    pairs: int


def find_raw_snapshots(
    lineage: Lineage, search: Search, targets: Sequence[Target], uids: set[str]
) -> list[RawSnapshot]:
    """Return the download snapshots with rows that match.

    Args:
        uids: pairs that match by a column which raw rows lack, such as `phash`.
    """
    all_targets = [*targets, *(Target("uid", uid) for uid in sorted(uids))]
    found: list[RawSnapshot] = []
    for manifest in lineage.manifests.values():
        hits = search.find(Rows(manifest, KEPT), all_targets) if manifest.stage == "download" else []
        if hits:
            parts = {hit.part.name: hit.part for hit in hits}
            found.append(RawSnapshot(manifest, [parts[name] for name in sorted(parts)], len(hits)))
    return found


def delete_raw(context: Context, raw: RawSnapshot, targets: Sequence[Target], uids: set[str]) -> list[str]:
    """Rewrite a raw snapshot without what was taken down; return the URLs of the removed images.

    Raises: ConfigError that names the run that makes the snapshot now, if there is one.
    """
    manifest = raw.download
    draft = Draft(context.store, manifest.stage, manifest.key)
    all_targets = [*targets, *(Target("uid", uid) for uid in uids)]
    with hold_lease(draft, context, wait=False, remake=True) as held:
        assert held is not None
        parts, replaced, removed = {part.name: part for part in manifest.parts}, list[str](), list[str]()
        for part in raw.parts:
            old, new, urls = _rewrite_part(held.draft, manifest, part, all_targets)
            for name in old:
                del parts[name]
            parts |= {one.name: one for one in new}
            replaced, removed = replaced + old, removed + urls
        after = _update_manifest(manifest, list(parts.values()), len(removed))
        held.draft.check_fence()
        draft.store.put(draft.path(MANIFEST), after.model_dump_json(indent=2).encode())
        draft.store.delete([draft.path(name) for name in replaced])
        draft.store.delete_tree(draft.path("trace"))  # this index still names the removed rows
    return removed


def _rewrite_part(
    draft: Draft, manifest: Manifest, part: Part, targets: Sequence[Target]
) -> tuple[list[str], list[Part], list[str]]:
    """Write a raw shard without the matching samples; return the old part names, the new parts and the removed URLs."""
    stem = part.name.removesuffix(".parquet").removeprefix("part-")
    new_stem = _next_stem(stem)
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
    number = re.sub(r"-r\d+$", "", stem)
    for evidence in manifest.named(f"evidence-{number}", ".parquet"):
        table = read_table(draft.store, manifest.path(evidence.name))
        table = table.filter(pa.array([uid not in set(uids) for uid in table["uid"].to_pylist()], pa.bool_()))
        parts.append(draft.put_table(f"evidence-{new_stem}.parquet", table))
        replaced.append(evidence.name)
    existing = {one.name for one in manifest.parts}
    return [name for name in replaced if name in existing], parts, removed["url"].to_pylist()


def _next_stem(stem: str) -> str:
    """Return 00003-r1 for 00003, and 00003-r2 for that."""
    number, _, revision = stem.partition("-r")
    return f"{number}-r{int(revision or 0) + 1}"


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
    changed = {"parts": ordered, "counts": counts, "facts": facts, "content_digest": content_digest(ordered)}
    return manifest.model_copy(update=changed)


def delete_originals(folders: Sequence[Path], urls: Sequence[str]) -> int:
    """Delete the response bodies that are kept for these URLs; return their number."""
    deleted = 0
    for folder in folders:
        originals = Originals(folder)
        for url in urls:
            if originals.get(url) is not None:
                originals.drop(url)
                deleted += 1
    return deleted


def delete_superseded(context: Context, manifest: Manifest) -> str | None:
    """Delete a dataset version that has a next version; return why it was kept, if it was."""
    return delete_snapshot(Draft(context.store, manifest.stage, manifest.key), context)
