"""The job that fits clusters to image features: `python -m plugins.scores.clusters.fit_job JOB.json`.

It writes `centroids.parquet` (vectors.py, CENTROIDS). The result is the same for any order of the rows and
files, on the CPU and on a GPU.
"""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from dataops.errors import ContractError
from dataops.parquet import encode_table, read_parquet
from dataops.store import FolderStore
from plugins.scores.clusters.kmeans import fit_levels
from plugins.scores.clusters.vectors import CENTROIDS, FIT_FEATURES, MAX_WIDTH, join_features, split_features
from training.job import JobFile, resolve_device, run_command

logger = logging.getLogger(__name__)

RESULT = "centroids.parquet"


class ClusterJob(JobFile):
    """The fields of a job file."""

    features: tuple[Path, ...]
    """Parquet files with the columns FIT_FEATURES."""
    clusters: int = Field(ge=1)
    """Number of clusters."""
    seed: int
    """Seed of the first centroids."""
    output: Path
    """Folder that receives the result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if torch sees it, else cpu."""


def run_job(job: ClusterJob) -> None:
    """Fit the clusters, unless the output folder has them.

    Raises: ContractError if there are no features, or if their widths differ.
    """
    store = FolderStore(job.output)
    if store.size(RESULT) is not None:
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    device = resolve_device(job.device).type
    feature_ND = read_features(job.features)
    group_GD, fine = fit_levels(feature_ND, job.clusters, job.seed, device)
    store.put(RESULT, encode_table(_to_table(group_GD, fine)).to_pybytes())
    logger.info("fitted %d clusters to %d images on %s", sum(map(len, fine)), len(feature_ND), device)


def read_features(paths: tuple[Path, ...]) -> Tensor:
    """Return the features of all files, int16 (N, D), sorted by uid.

    Raises: ContractError if there are none, or if their widths differ.
    """

    def read_parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for path in paths:
            table = read_parquet(path, str(path)).cast(FIT_FEATURES)
            if table.num_rows:
                yield np.array(table["uid"].to_pylist(), "S32"), join_features(table["feature"].to_pylist())

    parts = list(read_parts())
    widths = sorted({features.shape[1] for _, features in parts})
    if len(widths) != 1 or widths[0] > MAX_WIDTH:
        raise ContractError(f"features to cluster have widths {widths}; one width of at most {MAX_WIDTH:,} is needed")
    order = np.argsort(np.concatenate([uids for uids, _ in parts]), kind="stable")
    return torch.from_numpy(np.concatenate([features for _, features in parts])[order])


def _to_table(group_GD: Tensor, fine: list[Tensor]) -> pa.Table:
    groups = split_features(group_GD.numpy())
    columns = {
        "group": [group for group, centroids in enumerate(fine) for _ in centroids],
        "group_centroid": [groups[group] for group, centroids in enumerate(fine) for _ in centroids],
        "centroid": [centroid for centroids in fine for centroid in split_features(centroids.numpy())],
    }
    return pa.table(columns, schema=CENTROIDS)


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, ClusterJob, run_job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
