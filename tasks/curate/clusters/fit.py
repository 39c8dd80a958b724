"""Fit the clusters in a subprocess job (training/clusters/job.py): torch is not imported here."""

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyarrow.parquet as pq

from dataops.clusters.vectors import CENTROIDS
from dataops.snapshot import Record
from tasks.curate.clusters.config import ClustersConfig
from tasks.engine.stage import Work
from tasks.engine.subprocess_job import run_job

logger = logging.getLogger(__name__)

CENTROIDS_NAME = "_work/centroids.parquet"
"""Scratch table of the centroids (dataops.clusters.vectors.CENTROIDS)."""


def fit_clusters(config: ClustersConfig, features: Sequence[str], work: Work[Any]) -> None:
    """Fit the clusters to stored features, and write CENTROIDS_NAME.

    Args:
        features: store names of tables (dataops.clusters.vectors.FIT_FEATURES) with rows; without any, there is no cluster.

    Raises: the errors of the job.
    """
    draft, context, task = work.draft, work.context, "fit-clusters"
    if draft.done(task) is not None:
        return
    if not features:
        draft.finish(Record(task=task, parts=[draft.put_table(CENTROIDS_NAME, CENTROIDS.empty_table())]))
        return
    folder = context.home / "jobs" / f"curate-{draft.key}" / "clusters"
    job = {
        "features": [str(draft.store.local(name, keep_in=folder / "features")) for name in features],
        "clusters": config.count,
        "seed": work.seed,
        "output": str(folder / "result"),
        "device": config.device,
    }
    context.progress(0, 1, f"{draft.stage}: fit {config.count:,} clusters")
    run_job("training.clusters.job", job, folder, on_line=lambda line: logger.info("clusters: %s", line))
    part = draft.put_table(CENTROIDS_NAME, pq.read_table(folder / "result" / "centroids.parquet"))
    draft.finish(Record(task=task, parts=[part]))
    shutil.rmtree(folder)
    with suppress(OSError):  # not empty: the job of a scorer was killed
        folder.parent.rmdir()
