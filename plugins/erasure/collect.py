"""Collect the traces of removed pairs in the snapshots of a store, from `pack` back to `extract`: each stage is one map.

A pair that matches by a column that only later stages have, such as `phash`, is found in earlier stages by its uid.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.images.decode import ImageRefused, decode, make_preview
from dataops.schema import CAPTIONS
from dataops.shards.tar import read_samples
from dataops.snapshot import Manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from dataops.trace.targets import COLUMNS, Target, list_captions, matching_rows
from plugins.erasure.batches import Objects, Place, Sought, map_objects
from plugins.erasure.traces import is_in, read_readable
from tasks.curate.score import compute_score_ids
from tasks.engine.context import Context
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.takedown.holders import Traces

logger = logging.getLogger(__name__)

_IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "avif"})


def collect_traces(
    lineage: Lineage, targets: Sequence[Target], context: Context, known: Traces, place: Place | None
) -> Traces:
    """Return the traces of the pairs that match a target in any complete snapshot, and those that are known."""
    store, found = lineage.store, known
    found.uids |= {target.value for target in targets if target.kind == "uid"}
    found.urls |= {target.value for target in targets if target.kind == "url"}
    found.add(Traces(images={target.value: -1 for target in targets if target.kind == "sha256"}))
    run = partial(map_objects, sought=Sought(found, targets), context=context, place=place, writes=True)
    members: dict[str, set[str]] = defaultdict(set)
    """Keys of the samples by the name of their shard in the store."""
    originals: dict[str, str] = {}
    tables = {stage: _list_tables(lineage, stage, (KEPT, DROPPED)) for stage in PAIR_STAGES}
    for stage in reversed(PAIR_STAGES):
        before = -1
        while before < len(found.uids):  # a uid that one task has found may be in the rows of another
            before = len(found.uids)
            for traces, digests, samples in run(_find_rows, _sizes(tables[stage])):
                found.add(traces)
                originals |= digests
                for name, shard, key in samples if stage in ("download", "pack") else ():
                    members[tables[stage][name][0].path(shard)].add(key)
    sizes: dict[str, int] = {}
    for traces, some in run(_find_evidence, _sizes(_list_tables(lineage, "download", ("evidence-",)))):
        found.add(traces)
        sizes |= some
    for pair, digest in originals.items():
        found.images[digest] = max(sizes.get(pair, -1), found.images.get(digest, -1))
    for name, keys in sorted(members.items()):
        if store.size(name) is not None:
            try:
                _add_images(found, store, name, keys)
            except CorruptPart as error:
                logger.warning("%s; its images are not known", error)
    every = {name: one for some in tables.values() for name, one in some.items()} if found.captions else {}
    found.common = {caption for captions in run(_find_common, _sizes(every)) for caption in captions}
    return found


def _list_tables(lineage: Lineage, stage: str, prefixes: Sequence[str]) -> dict[str, tuple[Manifest, int]]:
    """Return the snapshot and size of each table of a stage, by name in the store; those that versions share, once."""
    manifests = [manifest for manifest in lineage.manifests.values() if manifest.stage == stage]
    parts = ((m, part) for m in manifests for prefix in prefixes for part in m.named(prefix, ".parquet"))
    return {manifest.path(part.name): (manifest, part.bytes) for manifest, part in parts}


def _sizes(tables: dict[str, tuple[Manifest, int]]) -> Objects:
    return [(name, size) for name, (_, size) in tables.items()]


def _find_rows(
    store: Store, sought: Sought, objects: Objects
) -> tuple[Traces, dict[str, str], list[tuple[str, str, str]]]:
    """Return the traces in matching rows, the sha256 of their images by uid, and table, shard and key of each sample."""
    found, uids = Traces(), set(sought.traces.uids)
    digests, samples = dict[str, str](), list[tuple[str, str, str]]()
    for name, _ in objects:
        for table in read_readable(store, name, [*COLUMNS, "caption", "key", "shard"]):
            rows = table.filter(pa.array(matching_rows(table, sought.targets) | is_in(table["uid"], uids)))
            _add_rows(found, rows)
            uids |= found.uids
            for row in rows.to_pylist():
                if row.get("sha256"):
                    digests[row["uid"]] = row["sha256"]
                if row.get("shard") and name.rpartition("/")[2].startswith(KEPT):
                    samples.append((name, row["shard"], row["key"]))
    return found, digests, samples


def _add_rows(found: Traces, rows: pa.Table) -> None:
    found.uids |= {*rows["uid"].to_pylist()}
    found.urls |= {*_texts(rows, "url")}
    found.captions |= {*_texts(rows, "caption")}
    if CAPTIONS.name in rows.column_names and rows.num_rows:
        captions, _ = list_captions(rows)
        found.uids |= {*_texts(captions, "uid")}
        found.captions |= {*_texts(captions, "caption")}


def _texts(table: pa.Table, column: str) -> Iterator[str]:
    return (text for text in (table[column].to_pylist() if column in table.column_names else ()) if text)


def _find_evidence(store: Store, sought: Sought, objects: Objects) -> tuple[Traces, dict[str, int]]:
    """Return the previews that a download kept and final URLs, and the sizes of images as fetched by uid, in bytes."""
    found, sizes = Traces(), dict[str, int]()
    for name, _ in objects:
        for table in read_readable(store, name, ["uid", "final_url", "bytes", "preview"]):
            for row in table.filter(pa.array(is_in(table["uid"], sought.traces.uids))).to_pylist():
                if row.get("bytes"):
                    sizes[row["uid"]] = row["bytes"]
                if row.get("preview"):
                    _add_image(found, row["preview"])
                if row.get("final_url"):
                    found.urls.add(row["final_url"])
    return found, sizes


def _add_images(found: Traces, store: Store, name: str, keys: set[str]) -> None:
    """Add the images of some samples of a shard, their previews as on pages, and their ids in the cache of scores."""
    with store.open_once(name) as file:
        for key, members in read_samples(file, name):
            for extension in (members.keys() & _IMAGES) if key in keys else ():
                data = members[extension]
                digest = _add_image(found, data)
                caption = members.get("txt", b"").decode("utf-8", "replace")
                for captions in (None, [caption]):
                    found.scores.add(compute_score_ids([digest], captions)[0].as_py().hex())
                try:
                    _add_image(found, make_preview(decode(data)))
                except ImageRefused:
                    continue


def _add_image(found: Traces, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    found.images[digest] = len(data)
    return digest


def _find_common(store: Store, sought: Sought, objects: Objects) -> set[str]:
    """Return the captions of removed pairs that other pairs have too."""
    common: set[str] = set()
    for name, _ in objects:
        for table in read_readable(store, name, ["uid", "caption"]):
            if "caption" in table.column_names:
                mask = is_in(table["caption"], sought.traces.captions) & ~is_in(table["uid"], sought.traces.uids)
                common |= {*table["caption"].filter(pa.array(mask)).to_pylist()}
    return common
