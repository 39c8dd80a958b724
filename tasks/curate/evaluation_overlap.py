"""Find training images that are copies of evaluation images.

Worker processes index the images of the evaluation sets (`index_images`, one task per tar or few
hundred files), then compare them with the training images (`search_shards`, one task per few raw
shards). docs/clean/curate.md describes which copies are found, and how reliably.
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

from dataops.config import recorded_path
from dataops.digest import canonical_json, text_sha256
from dataops.errors import ConfigError, UnusableSource
from dataops.images import decode as images
from dataops.images.fingerprint import MATRIX_SIDE
from dataops.images.near_duplicates import find_close_pairs, hamming_distance
from dataops.images.overlap import PLANE_SIDE, VARIANTS, correlate, index_image, variant_kind
from dataops.reasons import Reason
from dataops.shards.foreign_tar import open_foreign_tar
from dataops.shards.tar import MAX_MEMBER_BYTES
from dataops.snapshot import Draft, Input, Part, Record, read_table
from dataops.store import open_store
from tasks.curate.choose import stack_bytes
from tasks.curate.config import CurateConfig, OverlapConfig, OverlapThresholds, find_evaluation_files
from tasks.curate.inspect_images import inspected_name
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Work
from tasks.files.base import SourceFile

logger = logging.getLogger(__name__)

MATCHES_PART = "evaluation-matches.parquet"
"""Part of the snapshot (MATCHES), for a contamination report."""
MATCHES = pa.schema(
    [
        ("uid", pa.string()),
        ("evaluation_set", pa.string()),  # as written in curate.overlap.paths
        ("member", pa.string()),  # file of the image below the path; in a tar `file.tar/member`
        ("kind", pa.string()),  # exact (the same bytes), copy, crop, mirrored, mirrored_crop
        ("distance", pa.int32()),  # bits between the hashes; 0 for exact
        ("correlation", pa.float32()),  # 1 for exact
    ]
)
INDEXED = pa.schema(
    [
        ("evaluation_set", pa.string()),
        ("member", pa.string()),
        ("sha256", pa.string()),
        ("plane", pa.binary()),
        ("hashes", pa.binary()),  # uint64, little-endian
    ]
)
_FOUND = {"row": pl.Int64, "image": pl.Int64, "kind": pl.String, "distance": pl.Int32, "correlation": pl.Float32}
_FILES = 200
"""Number of image files that one task reads."""
_SHARDS = 16
"""Number of raw shards that one task searches: a search in few rows costs as much as one in many."""
_BATCH_BITS = 10
"""2^10 pairs are correlated at a time, in about 70 ms."""


@dataclass(frozen=True)
class IndexTask:
    """One task: files of an evaluation set."""

    number: int
    evaluation_set: str
    files: tuple[SourceFile, ...]

    @property
    def id(self) -> str:
        return f"evaluation-{self.number:05d}"


@dataclass(frozen=True)
class SearchTask:
    """One task: raw shards, and the store names of the tables of indexed evaluation images."""

    number: int
    shards: tuple[str, ...]
    indexed: tuple[str, ...]
    config: OverlapConfig

    @property
    def id(self) -> str:
        return f"search-{self.number:05d}"


def digest_evaluation_sets(config: CurateConfig) -> list[Input]:
    """Return the evaluation sets, each with a digest of its files. Raises: ConfigError, SourceError."""
    return digest_images("evaluation_set", config.overlap.paths if config.overlap else ())


def digest_images(kind: str, paths: Sequence[str]) -> list[Input]:
    """Return each path of images as an input of this kind, with a digest of its files. Raises: ConfigError, SourceError."""
    inputs = []
    for path in paths:
        listed = [[file.name, file.digest()] for file in find_evaluation_files(path)]  # names are a column of MATCHES
        inputs.append(Input(stage=kind, key=recorded_path(path), digest=text_sha256(canonical_json(listed))))
    return inputs


def match_evaluation_sets(
    work: Work[CurateConfig], config: OverlapConfig, numbers: Sequence[str]
) -> tuple[Part, dict[str, Any]]:
    """Write the training images that evaluation sets have (MATCHES_PART); return the part, and facts for the manifest.

    Args:
        numbers: raw shards whose INSPECTED tables are in the store.
    """
    draft = work.draft
    records = map_parts(index_images, _index_tasks(config), draft, work.context)
    count = sum(record.parts[0].rows for record in records)
    unreadable = sum(record.facts["unreadable"] for record in records)
    if not count:
        raise ConfigError(f"curate.overlap.paths: no image can be decoded in {', '.join(config.paths)}")
    if unreadable:
        logger.warning("curate: images of evaluation sets that cannot be decoded, and match no image: %d", unreadable)
    names = tuple(draft.path(record.parts[0].name) for record in records)
    batches = [tuple(numbers[start : start + _SHARDS]) for start in range(0, len(numbers), _SHARDS)]
    tasks = [SearchTask(number, batch, names, config) for number, batch in enumerate(batches)]
    found = [
        read_table(draft.store, draft.path(record.parts[0].name))
        for record in map_parts(search_shards, tasks, draft, work.context)
    ]
    matches = join_matches(found)
    rows = len(matches["uid"].unique())
    facts = {"evaluation_pictures": count, "evaluation_unreadable": unreadable, "evaluation_overlaps": rows}
    return draft.put_table(MATCHES_PART, matches), facts


def join_matches(tables: Sequence[pa.Table]) -> pa.Table:
    """Return tables of MATCHES as one, sorted by all columns."""
    order: Any = [(name, "ascending") for name in MATCHES.names]
    return pa.concat_tables([MATCHES.empty_table(), *tables]).sort_by(order)


def _index_tasks(config: OverlapConfig) -> list[IndexTask]:
    tasks: list[IndexTask] = []
    for path in config.paths:
        files = find_evaluation_files(path)
        tars = [[file] for file in files if file.name.endswith(".tar")]
        others = [file for file in files if not file.name.endswith(".tar")]
        for batch in [*tars, *(others[start : start + _FILES] for start in range(0, len(others), _FILES))]:
            tasks.append(IndexTask(len(tasks), recorded_path(path), tuple(batch)))
    return tasks


def index_images(draft: Draft, task: IndexTask) -> Record:
    """Index images of an evaluation set; files that are no images (captions, labels) are skipped."""
    rows, unreadable = [], 0
    for member, data in read_files(task.files, "curate.overlap.paths"):
        try:
            row = describe_image(member, data)
        except images.ImageRefused as refused:
            unreadable += refused.reason != Reason.NOT_AN_IMAGE
            continue
        rows.append({"evaluation_set": task.evaluation_set, **row})
    part = draft.put_table(f"_work/{task.id}.parquet", pa.Table.from_pylist(rows, INDEXED))
    return Record(task=task.id, parts=[part], facts={"unreadable": unreadable})


def describe_image(member: str, data: bytes) -> dict[str, Any]:
    """Return a row of INDEXED without its set. Raises: ImageRefused."""
    plane, hashes = index_image(images.decode_pixels(data))
    digest, packed = sha256(data).hexdigest(), hashes.astype("<u8").tobytes()
    return {"member": member, "sha256": digest, "plane": plane.tobytes(), "hashes": packed}


def read_files(files: Sequence[SourceFile], field: str) -> Iterator[tuple[str, bytes]]:
    """Yield (member, bytes) of each file, and of each member of a tar.

    Args:
        field: field of the config that names the files, for errors.

    Raises: SourceError.
    """
    for file in files:
        with file.open() as stream:
            if not file.name.endswith(".tar"):
                yield file.name, stream.read()
                continue
            try:
                with open_foreign_tar(stream, "r|") as tar:
                    for info in tar:
                        content = tar.extractfile(info) if info.isreg() and info.size <= MAX_MEMBER_BYTES else None
                        if content:
                            yield f"{file.name}/{info.name}", content.read()
            except (tarfile.TarError, EOFError, ValueError) as error:
                raise UnusableSource(f"{field}: {file.name} is not a whole tar file ({error})") from error


def search_shards(draft: Draft, task: SearchTask) -> Record:
    """Find the good images of raw shards that evaluation sets have."""
    columns = ["uid", "sha256", "phash", "luminance", "drop_reason"]
    inspected = pa.concat_tables(read_table(draft.store, draft.path(inspected_name(n)), columns) for n in task.shards)
    found = find_matches(inspected, _read_indexed(draft.store.uri, task.indexed), task.config)
    return Record(task=task.id, parts=[draft.put_table(f"_work/{task.id}.parquet", found)])


@lru_cache(maxsize=1)
def _read_indexed(store_uri: str, names: tuple[str, ...]) -> pa.Table:
    """Return the index of all evaluation images; a worker reads it once."""
    store = open_store(store_uri)
    return pa.concat_tables([INDEXED.empty_table(), *(read_table(store, name) for name in names)])


def find_matches(
    inspected: pa.Table, indexed: pa.Table, thresholds: OverlapThresholds, pool: Executor | None = None
) -> pa.Table:
    """Return the good training images that match indexed images (MATCHES), each pair once, as its best kind.

    Args:
        pool: threads that correlate images.
    """
    good = inspected.filter(inspected["drop_reason"].is_null()).combine_chunks()
    found = pl.concat([_match_bytes(good, indexed), *_match_variants(good, indexed, thresholds, pool)])
    best = found.sort("correlation", "distance", "kind", descending=[True, False, False])
    best = best.unique(["row", "image"], keep="first").sort("row", "image")
    rows, indices = (pa.array(best[name].to_numpy()) for name in ("row", "image"))
    return pa.table(
        {
            "uid": good["uid"].take(rows),
            "evaluation_set": indexed["evaluation_set"].take(indices),
            "member": indexed["member"].take(indices),
            **{name: best[name].to_arrow() for name in ("kind", "distance", "correlation")},
        }
    ).cast(MATCHES)


def _match_bytes(good: pa.Table, indexed: pa.Table) -> pl.DataFrame:
    rows = pl.DataFrame({"sha256": good["sha256"].to_pylist()}, schema={"sha256": pl.String}).with_row_index("row")
    sets = pl.DataFrame({"sha256": indexed["sha256"].to_pylist()}, schema={"sha256": pl.String})
    both = rows.join(sets.with_row_index("image"), on="sha256")
    both = both.with_columns(kind=pl.lit("exact"), distance=pl.lit(0), correlation=pl.lit(1.0))
    return both.select(pl.col(name).cast(kind) for name, kind in _FOUND.items())


def _match_variants(
    good: pa.Table, indexed: pa.Table, thresholds: OverlapThresholds, pool: Executor | None
) -> Iterator[pl.DataFrame]:
    planes = stack_bytes(indexed["plane"].to_pylist()).reshape(-1, PLANE_SIDE, PLANE_SIDE)
    queries = np.frombuffer(b"".join(indexed["hashes"].to_pylist()), "<u8").astype(np.uint64)
    hashes = good["phash"].to_numpy().astype(np.uint64)
    luminances = stack_bytes(good["luminance"].to_pylist()).reshape(-1, MATRIX_SIDE, MATRIX_SIDE)
    kinds = [variant_kind(number) for number in range(VARIANTS)]

    def correlated(pairs: NDArray[np.int64]) -> pl.DataFrame:
        """Return the pairs (query, row) of close hashes whose images correlate."""
        (indices, numbers), rows = np.divmod(pairs[:, 0], VARIANTS), pairs[:, 1]
        correlation = correlate(planes[indices], luminances[rows], numbers)
        good = np.flatnonzero(correlation >= thresholds.correlation)
        return pl.DataFrame(
            {
                "row": rows[good],
                "image": indices[good],
                "kind": [kinds[number] for number in numbers[good].tolist()],
                "distance": hamming_distance(queries[pairs[good, 0]], hashes[rows[good]]),
                "correlation": correlation[good],
            },
            schema_overrides=_FOUND,
        )

    for pairs in find_close_pairs(queries, hashes, thresholds.distance):
        batches = np.array_split(pairs, max(1, len(pairs) >> _BATCH_BITS))
        yield from (pool.map if pool else map)(correlated, batches)
