"""Curate's search for pictures of evaluation sets among those that are to be trained on.

The pictures of the sets are read in worker processes (`index`, a task a tar or some hundred files), then compared with the
training pictures (`search`, a task some raw shards). What copies are found, and how surely: docs/curate.md.
"""

import logging
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops.digest import canonical_json, text_sha256
from dataops.errors import ConfigError, SourceError
from dataops.images import decode as images
from dataops.images.fingerprint import MATRIX_SIDE
from dataops.images.near_duplicates import find_close_pairs, hamming_distance
from dataops.images.overlap import PLANE_SIDE, VARIANTS, correlate, index_image, variant
from dataops.shards.tar import MAX_MEMBER_BYTES
from dataops.snapshot import Draft, Input, Record, read_table
from dataops.store import open_store
from tasks.curate.config import CurateConfig, OverlapConfig, OverlapThresholds, find_evaluation_files
from tasks.curate.inspect_images import inspected_name
from tasks.curate.steps import stack_bytes
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Work
from tasks.files.base import SourceFile

logger = logging.getLogger(__name__)

MATCHES = pa.schema(
    [
        ("uid", pa.string()),
        ("evaluation_set", pa.string()),  # as curate.overlap.paths names it
        ("member", pa.string()),  # the picture's file below it; in a tar `file.tar/member`
        ("kind", pa.string()),  # exact (the same bytes), copy, crop, mirrored, mirrored_crop
        ("distance", pa.int32()),  # bits between the hashes; 0 of an exact one
        ("correlation", pa.float32()),  # 1 of an exact one
    ]
)
_INDEXED = pa.schema(
    [
        ("evaluation_set", pa.string()),
        ("member", pa.string()),
        ("sha256", pa.string()),
        ("plane", pa.binary()),
        ("hashes", pa.binary()),  # uint64, little-endian
    ]
)
_FILES = 200  # pictures read by one task
_SHARDS = (
    16  # raw shards searched by one task: a set's pictures, looked up in few rows at a time, cost the same as in many
)
_PAIRS_AT_ONCE = 10  # as a power of two: some 70 ms


@dataclass(frozen=True)
class IndexTask:
    """One task: some files of an evaluation set."""

    number: int
    evaluation_set: str
    files: tuple[SourceFile, ...]

    @property
    def id(self) -> str:
        return f"evaluation-{self.number:05d}"


@dataclass(frozen=True)
class SearchTask:
    """One task: raw shards, and the tables of what is known of the sets' pictures."""

    number: int
    shards: tuple[str, ...]
    indexed: tuple[str, ...]
    config: OverlapConfig

    @property
    def id(self) -> str:
        return f"search-{self.number:05d}"


def digest_evaluation_sets(config: CurateConfig) -> list[Input]:
    """The evaluation sets, each with a digest of its files. Raises: ConfigError, SourceError."""
    inputs = []
    for path in config.overlap.paths if config.overlap else ():
        listed = [[file.name, file.digest()] for file in find_evaluation_files(path)]  # names are a column of MATCHES
        inputs.append(Input(stage="evaluation_set", key=path, digest=text_sha256(canonical_json(listed))))
    return inputs


def match_evaluation_sets(
    work: Work[CurateConfig], config: OverlapConfig, numbers: Sequence[str]
) -> tuple[pa.Table, dict[str, Any]]:
    """The training pictures that evaluation sets have (columns MATCHES), and what is to be said of the sets.

    Args:
        numbers: of the raw shards, whose judged tables are in the store.
    """
    records = map_parts(index_images, _tasks(config), work.draft, work.context, _said)
    pictures = sum(record.parts[0].rows for record in records)
    unreadable = sum(record.facts["unreadable"] for record in records)
    if not pictures:
        raise ConfigError(f"curate.overlap.paths: no picture can be read in {', '.join(config.paths)}")
    if unreadable:
        logger.warning("curate: %d pictures of evaluation sets cannot be read", unreadable)
    names = tuple(work.draft.path(record.parts[0].name) for record in records)
    shards = [tuple(numbers[at : at + _SHARDS]) for at in range(0, len(numbers), _SHARDS)]
    searches = [SearchTask(number, some, names, config) for number, some in enumerate(shards)]
    found = [
        read_table(work.draft.store, work.draft.path(record.parts[0].name))
        for record in map_parts(search_shards, searches, work.draft, work.context, _said)
    ]
    order: Any = [(name, "ascending") for name in MATCHES.names]
    matches = pa.concat_tables([MATCHES.empty_table(), *found]).sort_by(order)
    rows = len(matches["uid"].unique())
    facts = {"evaluation_pictures": pictures, "evaluation_unreadable": unreadable, "evaluation_overlaps": rows}
    return matches, facts


def _said(record: Record) -> str:
    return f"{record.task}: {record.parts[0].rows:,} pictures of evaluation sets"


def _tasks(config: OverlapConfig) -> list[IndexTask]:
    tasks: list[IndexTask] = []
    for path in config.paths:
        files = find_evaluation_files(path)
        tars = [[file] for file in files if file.name.endswith(".tar")]
        others = [file for file in files if not file.name.endswith(".tar")]
        for some in [*tars, *(others[at : at + _FILES] for at in range(0, len(others), _FILES))]:
            tasks.append(IndexTask(len(tasks), path, tuple(some)))
    return tasks


def index_images(draft: Draft, task: IndexTask) -> Record:
    """Read pictures of an evaluation set; files that are no pictures (captions, labels) are passed over."""
    rows, unreadable = [], 0
    for member, data in _pictures(task.files):
        try:
            plane, hashes = index_image(images.decode_pixels(data))
        except images.ImageRefused as refused:
            unreadable += refused.reason != "not_an_image"
            continue
        rows.append(
            {
                "evaluation_set": task.evaluation_set,
                "member": member,
                "sha256": sha256(data).hexdigest(),
                "plane": plane.tobytes(),
                "hashes": hashes.astype("<u8").tobytes(),
            }
        )
    part = draft.put_table(f"_work/{task.id}.parquet", pa.Table.from_pylist(rows, _INDEXED))
    return Record(task=task.id, parts=[part], facts={"unreadable": unreadable})


def _pictures(files: Sequence[SourceFile]) -> Iterator[tuple[str, bytes]]:
    """(member, bytes) of all files, and of all members of those that are tars. Raises: SourceError."""
    for file in files:
        with file.open() as stream:
            if not file.name.endswith(".tar"):
                yield file.name, stream.read()
                continue
            try:
                with tarfile.open(fileobj=stream, mode="r|") as tar:
                    for info in tar:
                        content = tar.extractfile(info) if info.isreg() and info.size <= MAX_MEMBER_BYTES else None
                        if content:
                            yield f"{file.name}/{info.name}", content.read()
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise SourceError(f"curate.overlap.paths: {file.name} is not a whole tar file ({error})") from error


def search_shards(draft: Draft, task: SearchTask) -> Record:
    """The good pictures of some raw shards that evaluation sets have."""
    columns = ["uid", "sha256", "phash", "luminance", "drop_reason"]
    judged = pa.concat_tables(read_table(draft.store, draft.path(inspected_name(n)), columns) for n in task.shards)
    found = find_matches(judged, _indexed(draft.store.uri, task.indexed), task.config)
    return Record(task=task.id, parts=[draft.put_table(f"_work/{task.id}.parquet", found)])


@lru_cache(maxsize=1)
def _indexed(store_uri: str, names: tuple[str, ...]) -> pa.Table:
    """What is known of all pictures of the sets: read once by a worker."""
    store = open_store(store_uri)
    return pa.concat_tables([_INDEXED.empty_table(), *(read_table(store, name) for name in names)])


def find_matches(
    judged: pa.Table, indexed: pa.Table, likeness: OverlapThresholds, pool: Executor | None = None
) -> pa.Table:
    """The good pictures of `judged` that are among the indexed ones, each with the best way in which it is each of them.

    Args:
        pool: threads that lay pictures over each other.
    """
    good = judged.filter(judged["drop_reason"].is_null()).combine_chunks()
    found = pl.concat([_exact(good, indexed), *_changed(good, indexed, likeness, pool)])
    best = found.sort("correlation", "distance", "kind", descending=[True, False, False])
    best = best.unique(["row", "picture"], keep="first").sort("row", "picture")
    rows, pictures = (pa.array(best[name].to_numpy()) for name in ("row", "picture"))
    return pa.table(
        {
            "uid": good["uid"].take(rows),
            "evaluation_set": indexed["evaluation_set"].take(pictures),
            "member": indexed["member"].take(pictures),
            **{name: best[name].to_arrow() for name in ("kind", "distance", "correlation")},
        }
    ).cast(MATCHES)


_FOUND = {"row": pl.Int64, "picture": pl.Int64, "kind": pl.String, "distance": pl.Int32, "correlation": pl.Float32}


def _exact(good: pa.Table, indexed: pa.Table) -> pl.DataFrame:
    rows = pl.DataFrame({"sha256": good["sha256"].to_pylist()}, schema={"sha256": pl.String}).with_row_index("row")
    sets = pl.DataFrame({"sha256": indexed["sha256"].to_pylist()}, schema={"sha256": pl.String})
    both = rows.join(sets.with_row_index("picture"), on="sha256")
    both = both.with_columns(kind=pl.lit("exact"), distance=pl.lit(0), correlation=pl.lit(1.0))
    return both.select(pl.col(name).cast(kind) for name, kind in _FOUND.items())


def _changed(
    good: pa.Table, indexed: pa.Table, likeness: OverlapThresholds, pool: Executor | None
) -> Iterator[pl.DataFrame]:
    planes = stack_bytes(indexed["plane"].to_pylist()).reshape(-1, PLANE_SIDE, PLANE_SIDE)
    queries = np.frombuffer(b"".join(indexed["hashes"].to_pylist()), "<u8").astype(np.uint64)
    hashes = good["phash"].to_numpy().astype(np.uint64)
    luminances = stack_bytes(good["luminance"].to_pylist()).reshape(-1, MATRIX_SIDE, MATRIX_SIDE)
    kinds = [variant(number).kind for number in range(VARIANTS)]

    def laid_over(some: NDArray[np.int64]) -> pl.DataFrame:
        return _laid_over(some, planes, luminances, queries, hashes, kinds, likeness.correlation)

    for pairs in find_close_pairs(queries, hashes, likeness.distance):
        parts = np.array_split(pairs, max(1, len(pairs) >> _PAIRS_AT_ONCE))
        yield from (pool.map if pool else map)(laid_over, parts)


def _laid_over(
    pairs: NDArray[np.int64],
    planes: NDArray[np.uint8],
    luminances: NDArray[np.uint8],
    queries: NDArray[np.uint64],
    hashes: NDArray[np.uint64],
    kinds: list[str],
    least: float,
) -> pl.DataFrame:
    """The pairs whose pictures correlate, of pairs whose hashes are close."""
    (pictures, numbers), rows = np.divmod(pairs[:, 0], VARIANTS), pairs[:, 1]
    correlation = correlate(planes[pictures], luminances[rows], numbers)
    good = np.flatnonzero(correlation >= least)
    return pl.DataFrame(
        {
            "row": rows[good],
            "picture": pictures[good],
            "kind": [kinds[number] for number in numbers[good].tolist()],
            "distance": hamming_distance(queries[pairs[good, 0]], hashes[rows[good]]),
            "correlation": correlation[good],
        },
        schema_overrides=_FOUND,
    )
