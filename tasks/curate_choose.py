"""Curate's choice, once over all pictures: which leave, and why. Each step looks at the rows that the steps before left.

A step is a function that drops rows of a `Choice`; `tasks.curate.choose` calls them in order. Nothing depends on the order
or the partition of the rows.
"""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from dataops import near_duplicates
from tasks.curate_config import CurateConfig

Rows = NDArray[np.int64]


class Choice:
    """The rows of all raw shards (columns of JUDGED), and what was decided of each so far."""

    def __init__(self, judged: pa.Table):
        self.judged = judged.combine_chunks()
        self.reasons: list[str | None] = judged["drop_reason"].to_pylist()
        self.clusters: list[str | None] = [None] * judged.num_rows
        """The smallest uid of the duplicates that a row is one of."""
        self.overlaps: list[str | None] = [None] * judged.num_rows
        """The evaluation sets that have the row's picture, joined by commas."""
        self.scores: dict[str, pa.Array] = {}
        """Columns of scores (float32), null for rows that left before they were scored."""

    def left(self) -> Rows:
        """The rows that nothing has dropped so far."""
        return np.array([i for i, reason in enumerate(self.reasons) if reason is None], np.int64)

    def column(self, name: str, rows: Rows) -> list[Any]:
        """Values of a column of some rows."""
        return self.judged[name].take(pa.array(rows)).to_pylist()

    def drop(self, rows: Rows, reason: str) -> None:
        """Let rows leave that are still there."""
        for row in rows.tolist():
            self.reasons[row] = self.reasons[row] or reason


def drop_placeholders(choice: Choice, most: int | None) -> None:
    """Pictures that came, byte for byte, from more than `most` addresses; all rows that could be decoded count."""
    if most is None:
        return
    decoded = choice.judged.filter(choice.judged["phash"].is_valid()).select(["sha256", "url"])
    frame = pl.DataFrame({name: pl.Series(decoded[name]) for name in decoded.column_names})
    seen = frame.group_by("sha256").agg(pl.col("url").n_unique()).filter(pl.col("url") > most)
    placeholders = set(seen["sha256"].to_list())
    left = choice.left()
    choice.drop(left[[digest in placeholders for digest in choice.column("sha256", left)]], "placeholder")


def mark_overlaps(choice: Choice, matches: pa.Table, *, drop: bool) -> None:
    """Rows whose pictures evaluation sets have.

    Args:
        matches: columns uid and evaluation_set.
    """
    sets: dict[str, set[str]] = {}
    for uid, name in zip(matches["uid"].to_pylist(), matches["evaluation_set"].to_pylist(), strict=True):
        sets.setdefault(uid, set()).add(name)
    uids = choice.judged["uid"].to_pylist()
    rows = [row for row, uid in enumerate(uids) if uid in sets]
    for row in rows:
        choice.overlaps[row] = ",".join(sorted(sets[uids[row]]))
    if drop:
        choice.drop(np.array(rows, np.int64), "evaluation_overlap")


def drop_duplicates(choice: Choice, config: CurateConfig) -> None:
    """All but one of each cluster of duplicates: of the same bytes as fetched, of the same pixels, and near-duplicates.

    That row stays whose original has the largest area, then the longest caption, then the smallest uid.
    """
    left = choice.left()
    ranking = _ranking(choice, left)
    groups = _groups(choice, left, same_caption=config.same_caption)
    same_bytes = _numbered(list(zip(groups.tolist(), choice.column("sha256", left), strict=True)))
    # The hash keeps what was made to have another picture's 128 bits from being taken for it.
    seen = zip(groups.tolist(), choice.column("pixels", left), choice.column("phash", left), strict=True)
    same_pixels = _numbered(list(seen))
    cluster = np.arange(len(left))
    for labels, reason in ((same_bytes, "exact_duplicate"), (same_pixels, "pixel_duplicate")):
        cluster = _thin(choice, left, cluster, labels, ranking, reason)
    if config.near_duplicate_distance is not None:
        there = np.unique(cluster)
        labels = _near_clusters(choice, left[there], groups[there], config)
        cluster = _thin(choice, left, cluster, _spread(labels, there, len(left)), ranking, "near_duplicate")
    _name_clusters(choice, left, cluster)


def _ranking(choice: Choice, rows: Rows) -> Rows:
    areas, captions, uids = (choice.column(name, rows) for name in ("original_area", "caption", "uid"))
    order = sorted(range(len(rows)), key=lambda i: (-areas[i], -len(captions[i]), uids[i]))
    ranking = np.empty(len(order), np.int64)
    ranking[order] = np.arange(len(order))
    return ranking


def _groups(choice: Choice, rows: Rows, *, same_caption: bool) -> Rows:
    if not same_caption:
        return np.zeros(len(rows), np.int64)
    return _numbered([" ".join(caption.casefold().split()) for caption in choice.column("caption", rows)])


def _thin(choice: Choice, left: Rows, cluster: Rows, labels: Rows, ranking: Rows, reason: str) -> Rows:
    """Drop all but the best of the rows that stand for their clusters and have one label; the clusters then.

    Args:
        cluster: of each row, the place in `left` of the row that stands for its cluster.
        labels: of each row; only those of the rows that stand for clusters count.
    """
    there = np.unique(cluster)
    stays = near_duplicates.survivors(labels[there], ranking[there])
    choice.drop(left[there[~stays]], reason)
    _, number = np.unique(labels[there], return_inverse=True)
    best = np.empty(len(there), np.int64)
    best[number[stays]] = there[stays]
    stands = np.arange(len(left))
    stands[there] = best[number]
    return stands[cluster]


def _spread(labels: Rows, there: Rows, count: int) -> Rows:
    spread = np.full(count, -1, np.int64)
    spread[there] = labels
    return spread


def _near_clusters(choice: Choice, rows: Rows, groups: Rows, config: CurateConfig) -> Rows:
    there = choice.judged.select(["phash", "thumbnail"]).take(pa.array(rows))
    hashes = there["phash"].to_numpy().astype(np.uint64)
    thumbnails = matrix(there["thumbnail"])
    distance = config.near_duplicate_distance or 0
    return near_duplicates.clusters(hashes, groups, thumbnails, distance, config.near_duplicate_tolerance)


def matrix(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """A column of binary values of one length as (N, K)."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(len(column), -1 if len(column) else 0)


def _name_clusters(choice: Choice, left: Rows, cluster: Rows) -> None:
    """Write down the smallest uid of each cluster of more than one row."""
    several = np.flatnonzero(np.bincount(cluster, minlength=len(left))[cluster] > 1)
    names: dict[int, str] = {}
    uids = choice.column("uid", left[several])
    for label, uid in zip(cluster[several].tolist(), uids, strict=True):
        names[label] = min(uid, names.get(label, uid))
    for row, label in zip(left[several].tolist(), cluster[several].tolist(), strict=True):
        choice.clusters[row] = names[label]


def _numbered(values: list[Any]) -> Rows:
    """Equal values get equal numbers."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
