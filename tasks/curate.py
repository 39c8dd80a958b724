"""The curate stage: what can only be decided with the pixels at hand.

1. judge, a task a raw shard: decode each picture whole, look at its size and shape, take its hash and thumbnail;
2. resolve, once over all of them: which pairs are duplicates, and which one of them stays;
3. write, a task a raw shard: the kept and the dropped rows.

Whatever is made by 1 and 2 is scratch. The result does not depend on the order or the partition of the rows.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from dataops import images, near_duplicates
from dataops.config import StageConfig
from dataops.errors import CorruptPart
from dataops.schema import CURATED, conform, dropped
from dataops.shards import read_samples
from dataops.snapshot import Counts, Draft, Manifest, Record, read_table
from dataops.store import Store
from tasks.parts import map_parts, shared_workers
from tasks.stage import Made, Stage, Work, gather

logger = logging.getLogger(__name__)

JUDGED = pa.schema(
    [
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("sha256", pa.string()),
        ("original_area", pa.int64()),
        ("drop_reason", pa.string()),
        ("phash", pa.uint64()),
        ("thumbnail", pa.binary()),
    ]
)


class CurateConfig(StageConfig):
    """`[curate]`: which pictures are good enough, and which are the same."""

    min_side: int = Field(default=32, ge=1)
    """Drop pictures whose original's smaller side has fewer pixels."""
    max_aspect_ratio: float = Field(default=3.0, ge=1)
    """Drop pictures whose original's larger side is more than this many times the smaller."""
    near_duplicate_distance: int | None = Field(default=6, ge=0, le=16)
    """Bits in which the 64-bit perceptual hashes of near-duplicates may differ; none of this search without it."""
    near_duplicate_tolerance: int = Field(default=16, ge=0, le=255)
    """Largest difference, of 255, between the 16x16 colour thumbnails of near-duplicates, in any cell and channel."""
    same_caption: bool = False
    """True: call two pairs duplicates only where their captions agree too, but for case and white space, so that one
    picture under two names teaches both. False: keep one caption a picture, the longest."""


@dataclass(frozen=True)
class RawShard:
    """One task: a raw shard of the download stage."""

    step: str
    rows: str
    """Name in the store of its Parquet part."""
    tar: str
    image_extension: str
    config: CurateConfig

    @property
    def number(self) -> str:
        return self.tar.rpartition("/")[2].removesuffix(".tar")

    @property
    def id(self) -> str:
        return f"{self.step}-{self.number}"


def make(work: Work) -> Made:
    """Judge, resolve, write."""
    with shared_workers(work.context) as context:
        return _make(replace(work, context=context))


def _make(work: Work) -> Made:
    config: CurateConfig = work.config
    judged = map_parts(judge, _shards("judge", work.inputs["download"], config), work.draft, work.context)
    names = [work.draft.path(record.parts[0].name) for record in judged]
    tables = [read_table(work.context.store, name) for name in names]
    reasons = resolve(pa.concat_tables(tables) if tables else JUDGED.empty_table(), config)
    start = 0
    for name, table in zip(names, tables, strict=True):
        decided = pa.table({"uid": table["uid"], "phash": table["phash"]})
        mine = pa.array(reasons[start : start + table.num_rows], pa.string())
        work.draft.put_table(_decided(name.rpartition("judged-")[2]), decided.append_column("drop_reason", mine))
        start += table.num_rows
    records = map_parts(write, _shards("write", work.inputs["download"], config), work.draft, work.context)
    return Made(*gather(records))


def _shards(step: str, download: Manifest, config: CurateConfig) -> list[RawShard]:
    extension = str(download.config["encode_format"])
    tars = {part.name for part in download.named("", ".tar")}
    shards = []
    for part in download.named("part-", ".parquet"):
        tar = part.name.removeprefix("part-").removesuffix(".parquet") + ".tar"
        if tar not in tars:
            msg = f"{download.path(part.name)} has no {tar} beside it; remake it with --force download"
            raise CorruptPart(msg)
        shards.append(RawShard(step, download.path(part.name), download.path(tar), extension, config))
    return shards


def judge(draft: Draft, shard: RawShard) -> Record:
    """Look at each picture of a raw shard; the table goes to the scratch objects."""
    rows = read_table(draft.store, shard.rows)
    judged = [
        {
            "uid": row["uid"],
            "caption": row["caption"],
            "sha256": row["sha256"],
            "original_area": row["original_width"] * row["original_height"],
            **judge_image(data, (row["original_width"], row["original_height"]), shard.config),
        }
        for row, data in paired(draft.store, rows, shard)
    ]
    part = draft.put_table(f"_work/judged-{shard.number}.parquet", pa.Table.from_pylist(judged, JUDGED))
    return Record(task=shard.id, parts=[part])


def paired(store: Store, rows: pa.Table, shard: RawShard) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each row of a raw shard with the bytes of its picture.

    Raises: CorruptPart where rows and tar do not go together.
    """
    with store.open(shard.tar) as file:
        samples = read_samples(file, shard.tar)
        for row in rows.to_pylist():
            key, members = next(samples, (None, {}))
            if key != row["key"] or shard.image_extension not in members:
                msg = f"{shard.tar}: found {key!r} where {row['key']}.{shard.image_extension} should be"
                raise CorruptPart(msg)
            yield row, members[shard.image_extension]
        if extra := next(samples, None):
            msg = f"{shard.tar}: sample {extra[0]!r} has no row"
            raise CorruptPart(msg)


def judge_image(data: bytes, original_size: tuple[int, int], config: CurateConfig) -> dict[str, Any]:
    """`drop_reason` (None for a good picture), `phash` and `thumbnail` (None where it cannot be decoded)."""
    try:
        image = images.decode(data)
    except images.ImageRefused as refused:
        return {"drop_reason": refused.reason, "phash": None, "thumbnail": None}
    small, large = sorted(original_size)
    reason = None
    if small < config.min_side:
        reason = "too_small"
    elif large > config.max_aspect_ratio * small:
        reason = "aspect_ratio"
    return {"drop_reason": reason, "phash": images.phash(image), "thumbnail": images.thumbnail(image)}


def resolve(judged: pa.Table, config: CurateConfig) -> list[str | None]:
    """The drop reason of each row, or None: those of the judges, and then the duplicates among the others.

    Of each cluster of duplicates that row stays whose original has the largest area, then the longest caption, then the
    smallest uid. Exact duplicates have the same bytes as fetched; near-duplicates are looked for among what is left.
    """
    reasons: list[str | None] = judged["drop_reason"].to_pylist()
    good = np.array([i for i, reason in enumerate(reasons) if reason is None], np.int64)
    if not len(good):
        return reasons
    rows = judged.take(pa.array(good))
    captions = rows["caption"].to_pylist()
    uids, areas = rows["uid"].to_pylist(), rows["original_area"].to_pylist()
    order = sorted(range(len(uids)), key=lambda i: (-areas[i], -len(captions[i]), uids[i]))
    ranking = np.empty(len(order), np.int64)
    ranking[order] = np.arange(len(order))
    groups = _numbered([" ".join(c.casefold().split()) if config.same_caption else "" for c in captions])

    exact = _numbered(list(zip(groups.tolist(), rows["sha256"].to_pylist(), strict=True)))
    stays = near_duplicates.survivors(exact, ranking)
    for i in np.flatnonzero(~stays):
        reasons[good[i]] = "exact_duplicate"
    if config.near_duplicate_distance is not None:
        left = np.flatnonzero(stays)
        near = near_survivors(rows.take(pa.array(left)), groups[left], ranking[left], config)
        for i in left[~near]:
            reasons[good[i]] = "near_duplicate"
    return reasons


def near_survivors(rows: pa.Table, groups: np.ndarray, ranking: np.ndarray, config: CurateConfig) -> np.ndarray:
    """Of rows of which no two are exact duplicates, which ones stay (bool)."""
    distance = config.near_duplicate_distance or 0
    hashes = rows["phash"].to_numpy().astype(np.uint64)
    thumbnails = np.frombuffer(b"".join(rows["thumbnail"].to_pylist()), np.uint8).reshape(len(hashes), -1)
    pairs = near_duplicates.candidates(hashes, groups, distance)
    pairs = near_duplicates.verified(pairs, thumbnails, config.near_duplicate_tolerance)
    return near_duplicates.survivors(near_duplicates.clusters(len(hashes), pairs), ranking)


def _numbered(values: list[Any]) -> np.ndarray:
    """Equal values get equal numbers."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _decided(number: str) -> str:
    return f"_work/decided-{number.removesuffix('.parquet')}.parquet"


def write(draft: Draft, shard: RawShard) -> Record:
    """Write the kept and the dropped rows of a raw shard."""
    rows = read_table(draft.store, shard.rows)
    decided = read_table(draft.store, draft.path(_decided(shard.number)))
    if decided["uid"] != rows["uid"]:
        msg = f"{shard.rows}: its rows are not those that were judged"
        raise CorruptPart(msg)
    reasons = decided["drop_reason"].to_pylist()
    phashes = [None if value is None else f"{value:016x}" for value in decided["phash"].to_pylist()]
    rows = rows.append_column("phash", pa.array(phashes, pa.string()))
    kept = rows.filter(pa.array([reason is None for reason in reasons], pa.bool_()))
    lost = rows.append_column("drop_reason", decided["drop_reason"])
    lost = lost.filter(pa.array([reason is not None for reason in reasons], pa.bool_()))
    lost = lost.append_column("drop_stage", pa.array(["curate"] * lost.num_rows, pa.string()))
    where = f"curate {shard.number}"
    parts = [
        draft.put_table(f"part-{shard.number}.parquet", conform(kept, CURATED, where)),
        draft.put_table(f"dropped-{shard.number}.parquet", conform(lost, dropped(CURATED), where)),
    ]
    counts = Counter(reason for reason in reasons if reason)
    return Record(
        task=shard.id,
        parts=parts,
        counts=Counts(input=rows.num_rows, kept=kept.num_rows, dropped=dict(sorted(counts.items()))),
    )


CURATE = Stage(name="curate", version=2, make=make)
