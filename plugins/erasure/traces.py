"""Collect what removed pairs may have left: their URLs and captions, and digests of their images and previews.

    takedowns/<digest>.traces.json    written before the first deletion, so that a killed call leaves what a search needs

When a search finds nothing more, URLs and captions are deleted from it. Uids and digests stay, so that later calls can
search again, and `download` leaves out rows whose URL was erased.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataops.errors import CorruptPart
from dataops.images.decode import ImageRefused, decode, make_preview
from dataops.parquet import open_parquet
from dataops.schema import CAPTIONS
from dataops.shards.tar import read_samples
from dataops.snapshot import Manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from dataops.trace.requests import traces_name
from dataops.trace.targets import COLUMNS, Target, list_captions, matching_rows
from tasks.curate.score import compute_score_ids
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.takedown.holders import Traces

logger = logging.getLogger(__name__)

_IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "avif"})


def save_traces(traces: Traces, store: Store, request: str) -> None:
    """Write the traces of the request with this digest."""
    values = {name: value if name == "images" else sorted(value) for name, value in vars(traces).items()}
    store.put(traces_name(request), json.dumps(values).encode())


def load_traces(store: Store, request: str) -> Traces:
    """Return the traces of a request; empty ones if there are none. Raises: CorruptPart if they are damaged."""
    return parse_traces(store, traces_name(request))


def parse_traces(store: Store, name: str) -> Traces:
    """Return the traces in an object of the store; empty ones if there is none. Raises: as load_traces."""
    if (data := store.find(name)) is None:
        return Traces()
    try:
        values: dict[str, Any] = json.loads(data)
        texts = {name: set(value) for name, value in values.items() if name != "images"}
        return Traces(**texts, images=dict(values["images"]))  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptPart(f"{store.uri}/{name} holds no traces; delete it, and repeat the takedown") from error


def collect_traces(lineage: Lineage, targets: Sequence[Target]) -> Traces:
    """Return the traces of the pairs that match a target in any complete snapshot, from `pack` back to `extract`.

    A pair that matches by a column that only later stages have, such as `phash`, is found in earlier stages by its uid.
    """
    found = Traces(
        uids={target.value for target in targets if target.kind == "uid"},
        urls={target.value for target in targets if target.kind == "url"},
        images={target.value: -1 for target in targets if target.kind == "sha256"},
    )
    store = lineage.store
    manifests = [m for stage in reversed(PAIR_STAGES) for m in lineage.manifests.values() if m.stage == stage]
    members: dict[str, set[str]] = defaultdict(set)
    """Keys of the samples by the name of their shard in the store."""
    originals: dict[str, str] = {}
    for manifest in manifests:
        for prefix in (KEPT, DROPPED):
            for part in manifest.named(prefix, ".parquet"):
                for table in read_readable(store, manifest.path(part.name), [*COLUMNS, "caption", "key", "shard"]):
                    mask = matching_rows(table, targets) | is_in(table["uid"], found.uids)
                    rows = table.filter(pa.array(mask))
                    _add_rows(found, rows)
                    originals |= {row["uid"]: row["sha256"] for row in rows.to_pylist() if row.get("sha256")}
                    if manifest.stage in ("download", "pack") and prefix == KEPT:
                        for row in rows.to_pylist():
                            members[manifest.path(row["shard"])].add(row["key"])
    sizes = _add_evidence(found, store, [m for m in manifests if m.stage == "download"])
    for pair, digest in originals.items():
        found.images[digest] = max(sizes.get(pair, -1), found.images.get(digest, -1))
    for name, keys in sorted(members.items()):
        if store.size(name) is not None:
            try:
                _add_images(found, store, name, keys)
            except CorruptPart as error:
                logger.warning("%s; its images are not known", error)
    found.common = _find_common(found, store, manifests)
    return found


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


def _add_evidence(found: Traces, store: Store, downloads: Sequence[Manifest]) -> dict[str, int]:
    """Add the previews that a download kept, and final URLs; return the sizes of the images as fetched by uid, in bytes."""
    sizes: dict[str, int] = {}
    for manifest in downloads:
        for part in manifest.named("evidence-", ".parquet"):
            for table in read_readable(store, manifest.path(part.name), ["uid", "final_url", "bytes", "preview"]):
                for row in table.filter(pa.array(is_in(table["uid"], found.uids))).to_pylist():
                    if row.get("bytes"):
                        sizes[row["uid"]] = row["bytes"]
                    if row.get("preview"):
                        _add_image(found, row["preview"])
                    if row.get("final_url"):
                        found.urls.add(row["final_url"])
    return sizes


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


def _find_common(found: Traces, store: Store, manifests: Sequence[Manifest]) -> set[str]:
    """Return the captions of removed pairs that other pairs have too."""
    common: set[str] = set()
    for manifest in manifests if found.captions else ():
        for prefix in (KEPT, DROPPED):
            for part in manifest.named(prefix, ".parquet"):
                for table in read_readable(store, manifest.path(part.name), ["uid", "caption"]):
                    if "caption" in table.column_names:
                        mask = is_in(table["caption"], found.captions) & ~is_in(table["uid"], found.uids)
                        common |= {*table["caption"].filter(pa.array(mask)).to_pylist()}
    return common


def is_in(column: pa.ChunkedArray | pa.Array, values: set[str]) -> NDArray[np.bool_]:
    """Return whether each value of a column is one of the values (N,)."""
    options = pc.SetLookupOptions(pa.array(sorted(values), pa.string()))
    found = pc.call_function("is_in", [column.cast(pa.string())], options)
    return np.array(found.to_numpy(zero_copy_only=False), bool)


def read_readable(store: Store, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield what `read_groups` yields; nothing, and a warning, for a damaged part, which a search reads as bytes."""
    try:
        yield from read_groups(store, name, columns)
    except CorruptPart as error:
        logger.warning("%s; its rows are not known", error)


def read_groups(store: Store, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the row groups of a Parquet object one after the other, with those of the columns that it has.

    Raises: CorruptPart if it is damaged.
    """
    with store.open_once(name) as file, open_parquet(file, f"{store.uri}/{name}") as parquet:
        names = [one for one in parquet.schema_arrow.names if one in columns]
        for group in range(parquet.metadata.num_row_groups):
            yield parquet.read_row_group(group, names)
