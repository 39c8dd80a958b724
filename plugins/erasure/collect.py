"""Collect the traces of removed pairs in the snapshots of a store: a map reads the tables of a stage.

What the indexes of `pack` and `download` name is read first: it has nearly all traces. Then the stages are read from
`extract` on, which has few tables and all captions of a URL. A stage is read again when more is known than at its reading.
So the last reading of a stage also proves which of its tables hold no trace: an erasure and a search do not read these.

A pair that matches by a column that only later stages have, such as `phash`, is found in earlier stages by its uid.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from dataops.errors import CorruptPart
from dataops.images.decode import ImageRefused, decode, make_preview
from dataops.schema import CAPTIONS
from dataops.shards.tar import read_samples
from dataops.snapshot import Manifest, Part
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from dataops.trace.targets import COLUMNS, Target, list_captions, matching_rows
from plugins.erasure.batches import Objects, Place, Sought, map_objects
from plugins.erasure.traces import is_in, open_whole, read_groups
from tasks.curate.score import compute_score_ids
from tasks.engine.context import Context
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.search import select_parts
from tasks.takedown.holders import Traces

logger = logging.getLogger(__name__)

_IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "avif"})
_COLUMNS = (*COLUMNS, "caption", "key", "shard", "final_url", "bytes", "preview")


@dataclass
class Tables:
    """The tables of a store that may have traces, by stage: the size of each by its name in the store."""

    first: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    """Those in which an index finds a pair, with the evidence of their shards."""
    every: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    proved: set[str] = field(default_factory=set)
    """Names of shards and their rows that need not be read (`_prove`)."""


@dataclass
class _Reading:
    """What a reading of tables has found."""

    traces: Traces = field(default_factory=Traces)
    digests: dict[str, str] = field(default_factory=dict)
    """The sha256 of images as fetched, by uid."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Their sizes in bytes, by uid."""
    samples: set[tuple[str, str]] = field(default_factory=set)
    """Name of the shard in the store, and key of the sample."""
    clean: set[str] = field(default_factory=set)
    """Tables without any trace; only of a remote store."""

    def add(self, other: "_Reading") -> None:
        self.traces.add(other.traces)
        self.digests |= other.digests
        self.sizes |= other.sizes
        self.samples |= other.samples
        self.clean |= other.clean


def collect_traces(
    lineage: Lineage, targets: Sequence[Target], context: Context, known: Traces, place: Place | None
) -> tuple[Traces, frozenset[str]]:
    """Collect the traces of the pairs that match a target in any complete snapshot.

    Returns: the traces, with those that are known; and objects that hold none of them, if the store is remote. Nothing
    changes these: a table that is written again gets another name.
    """
    found = known
    found.uids |= {target.value for target in targets if target.kind == "uid"}
    found.urls |= {url for target in targets if target.kind == "url" for url in target.spellings}
    found.add(Traces(images={target.value: -1 for target in targets if target.kind == "sha256"}))
    found.common.clear()
    tables, listed, samples = Tables(), -1, set[tuple[str, str]]()
    readings = dict[str, _Reading]()
    for is_first in (True, False):
        read_with = dict[str, list[int]]()
        while stale := [stage for stage in PAIR_STAGES if read_with.get(stage) != _count(found)]:
            stage, read_with[stage] = stale[0], _count(found)
            if listed != len(found.uids):  # an index may find those that are new in further tables
                tables, listed = list_tables(lineage, targets, found.uids), len(found.uids)
            some = (tables.first if is_first else tables.every)[stage].items()
            readings[stage] = reading = _Reading()
            for one in map_objects(_find_traces, [*some], Sought(found, targets), context, place, writes=True):
                reading.add(one)
            found.add(replace(reading.traces, common=set()))
            for pair, digest in reading.digests.items():
                found.images[digest] = max(reading.sizes.get(pair, -1), found.images.get(digest, -1))
            _add_images(found, lineage.store, reading.samples - samples)
            samples |= reading.samples
    found.common = {caption for one in readings.values() for caption in one.traces.common}
    return found, frozenset(tables.proved.union(*(one.clean for one in readings.values())))


def _count(traces: Traces) -> list[int]:
    return [len(value) for value in vars(traces).values()]


def list_tables(lineage: Lineage, targets: Sequence[Target], uids: set[str]) -> Tables:
    """Return the tables that may have traces of the pairs with these uids, and of those that match a target."""
    store, found = lineage.store, Tables()
    sought = [*targets, *(Target("uid", uid) for uid in sorted(uids))]
    sizes = {entry.name: entry.bytes for entry in store.entries("")} if store.is_remote else {}
    for manifest in lineage.manifests.values():
        if manifest.stage not in PAIR_STAGES:
            continue
        kept, evidence = (manifest.named(prefix, ".parquet") for prefix in (KEPT, "evidence-"))
        has_index = manifest.stage in ("download", "pack")
        chosen = select_parts(store, manifest, kept, sought) if has_index else []
        numbers = {_number(part) for part in chosen}
        first = [*chosen, *(part for part in evidence if _number(part) in numbers)]
        found.first[manifest.stage] |= {manifest.path(part.name): part.bytes for part in first}
        if has_index and store.is_remote and _has_sources(lineage, manifest):
            named = {part.name for part in chosen}
            found.proved |= _prove(manifest, [part for part in kept if part.name not in named], sizes)
        every = {
            manifest.path(part.name): part.bytes for part in [*kept, *manifest.named(DROPPED, ".parquet"), *evidence]
        }
        found.every[manifest.stage] |= {name: size for name, size in every.items() if name not in found.proved}
    return found


def _number(part: Part) -> str:
    return part.name.partition("-")[2][:5]


def _has_sources(lineage: Lineage, manifest: Manifest) -> bool:
    """Return whether the snapshots from which the rows were copied are in the store, so that they are read."""
    sources = [lineage.parent(one) for one in manifest.inputs if one.stage in PAIR_STAGES]
    return bool(sources) and None not in sources


def _prove(manifest: Manifest, rows: Collection[Part], sizes: Mapping[str, int]) -> set[str]:
    """Return the tables of kept rows in which the index finds no pair, and their shards.

    The store compared the checksum of a shard when it was written, and it still has the size that the manifest names.
    """
    stems = {part.name.removeprefix(KEPT).removesuffix(".parquet") for part in rows}
    shards = [
        part for end in (".tar", ".idx") for part in manifest.named("", end) if part.name.removesuffix(end) in stems
    ]
    return {name for part in (*rows, *shards) if sizes.get(name := manifest.path(part.name)) == part.bytes}


def _find_traces(store: Store, sought: Sought, objects: Objects) -> _Reading:
    found, uids = _Reading(), set(sought.traces.uids)
    for name, size in objects:
        try:
            with open_whole(store, name, size) as file:
                has_pair = False
                for table in read_groups(file, f"{store.uri}/{name}", _COLUMNS):
                    if "uid" not in table.column_names:  # of the requests of a crawl; a search reads it
                        continue
                    rows = table.filter(pa.array(matching_rows(table, sought.targets) | is_in(table["uid"], uids)))
                    has_pair |= rows.num_rows > 0
                    _add_rows(found, rows, name)
                    uids |= found.traces.uids
                    if "caption" in table.column_names:
                        others = is_in(table["caption"], sought.traces.captions) & ~is_in(table["uid"], uids)
                        found.traces.common |= {*table["caption"].filter(pa.array(others)).to_pylist()}
                if store.is_remote and not has_pair:
                    file.seek(0)
                    found.clean |= set() if sought.scanner.scan(file, name, size) else {name}
        except CorruptPart as error:
            logger.warning("%s; its rows are not known", error)  # a search reads it as bytes
    return found


def _add_rows(found: _Reading, rows: pa.Table, name: str) -> None:
    traces, (folder, _, table) = found.traces, name.rpartition("/")
    traces.uids |= {*rows["uid"].to_pylist()}
    traces.urls |= {*_texts(rows, "url"), *_texts(rows, "final_url")}
    traces.captions |= {*_texts(rows, "caption")}
    if CAPTIONS.name in rows.column_names and rows.num_rows:
        captions, _ = list_captions(rows)
        traces.uids |= {*_texts(captions, "uid")}
        traces.captions |= {*_texts(captions, "caption")}
    for row in rows.to_pylist():
        if row.get("sha256"):
            found.digests[row["uid"]] = row["sha256"]
        if row.get("bytes"):
            found.sizes[row["uid"]] = row["bytes"]
        if row.get("preview"):
            _add_image(traces, row["preview"])
        if row.get("shard") and table.startswith(KEPT) and name.startswith(("download/", "pack/")):
            found.samples.add((f"{folder}/{row['shard']}", row["key"]))


def _texts(table: pa.Table, column: str) -> Iterator[str]:
    return (text for text in (table[column].to_pylist() if column in table.column_names else ()) if text)


def _add_images(found: Traces, store: Store, samples: set[tuple[str, str]]) -> None:
    """Add the images of some samples, their previews as on pages, and their ids in the cache of scores."""
    keys = defaultdict[str, set[str]](set)
    for name, key in samples:
        keys[name].add(key)
    for name in sorted(keys):
        try:
            if store.size(name) is not None:
                _add_images_of(found, store, name, keys[name])
        except CorruptPart as error:
            logger.warning("%s; its images are not known", error)


def _add_images_of(found: Traces, store: Store, name: str, keys: set[str]) -> None:
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
