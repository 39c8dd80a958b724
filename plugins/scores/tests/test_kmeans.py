"""Clusters are the same for any order of the rows and any chunks, and as good as those of scikit-learn."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.cluster import KMeans

from plugins.scores.clusters import fit_job as job
from plugins.scores.clusters.kmeans import fit_levels
from plugins.scores.clusters.vectors import FIT_FEATURES, Centroids, round_features, split_features


def features(count: int, width: int = 8, blobs: int = 6) -> np.ndarray:
    random = np.random.default_rng(0)
    centers = random.normal(size=(blobs, width))
    return round_features(centers[random.integers(0, blobs, count)] + random.normal(scale=0.15, size=(count, width)))


def fit(folder: Path, rows: np.ndarray, clusters: int, files: int = 1, seed: int = 0) -> pa.Table:
    """Run the job on rows whose uids give their order."""
    folder.mkdir()
    order = np.random.default_rng(files).permutation(len(rows))
    for number, part in enumerate(np.array_split(order, files)):
        columns = {"uid": [f"{row:032x}" for row in part], "feature": split_features(rows[part])}
        pq.write_table(pa.table(columns, schema=FIT_FEATURES), folder / f"{number}.parquet")
    paths = [str(path) for path in sorted(folder.glob("*.parquet"))]
    values = {"features": paths, "clusters": clusters, "seed": seed, "output": str(folder / "out"), "device": "cpu"}
    (folder / "job.json").write_text(json.dumps(values))
    assert job.main([str(folder / "job.json")]) == 0
    return pq.read_table(folder / "out" / job.RESULT)


def similarity(rows: np.ndarray, table: pa.Table) -> float:
    """Return the mean cosine of the rows and their centroids."""
    return float(Centroids.of_table(table).find_nearest(rows)[1].mean()) / 4000**2


def test_clusters_are_as_good_as_those_of_scikit_learn(tmp_path: Path) -> None:
    rows = features(200)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    peer = KMeans(12, random_state=0).fit(unit).cluster_centers_
    peer /= np.linalg.norm(peer, axis=1, keepdims=True)
    assert similarity(rows, fit(tmp_path / "a", rows, 12)) > (unit @ peer.T).max(axis=1).mean() - 0.005


@pytest.mark.parametrize("flat", [512, 4], ids=["one level", "two levels"])
def test_clusters_depend_neither_on_order_nor_files_nor_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flat: int
) -> None:
    rows = features(300)
    monkeypatch.setattr(job, "fit_levels", partial(fit_levels, most_flat=flat))
    first = fit(tmp_path / "a", rows, 20)
    assert first.num_rows == 20
    assert (max(first["group"].to_pylist()) > 0) == (flat == 4)
    monkeypatch.setattr(job, "fit_levels", partial(fit_levels, most_flat=flat, chunk_values=64))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert fit(tmp_path / "b", rows, 20, files=3) == first
    finally:
        torch.set_num_threads(threads)
    assert fit(tmp_path / "c", rows, 20, seed=1) != first
    assert similarity(rows, first) > 0.95


def test_there_are_no_more_clusters_than_different_rows(tmp_path: Path) -> None:
    rows = np.repeat(features(3), 10, axis=0)
    table = fit(tmp_path / "a", rows, 12)
    found, dots = Centroids.of_table(table).find_nearest(rows)
    assert table.num_rows == len(np.unique(rows, axis=0)) == len(np.unique(found))
    assert (dots > 0.999 * 4000**2).all()
