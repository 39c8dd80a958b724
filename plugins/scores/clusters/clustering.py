"""Find clusters of the images that curate keeps, and drop those that are like no target.

1. list_kept, by batches of raw shards: list the rows that are kept so far;
2. compute or look up the feature of each image (plugins.scores.compute), in fixed point (vectors.py);
3. put_fit_rows: choose rows by a hash of uid and seed, and fit the clusters to them in a job (fit_job.py);
4. assign_rows: find the nearest centroid of each row, drop it if the config names targets and the cluster has none, and
   write the result of each raw shard;
5. write CLUSTERS_PART.

The output depends neither on the order of the rows nor on their distribution over shards.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataops.kernels.hashes import hash128
from dataops.parquet import read_parquet
from dataops.snapshot import Draft, Record, fetch_table, read_table
from plugins.scores.clusters.config import NAME, OFF_TARGET, ClustersConfig, ClustersFacts
from plugins.scores.clusters.targets import is_on_target, put_target_clusters, put_target_images
from plugins.scores.clusters.vectors import CENTROIDS, FIT_FEATURES, Centroids, cosine, join_features
from plugins.scores.compute import Lookup, compute_score, list_images, read_found
from tasks.curate.choose import batch_shards
from tasks.curate.config import CurateConfig
from tasks.curate.inspect_images import RawShard
from tasks.curate.stage import images_name, put_images, put_result, read_kept
from tasks.curate.step import StepOutput
from tasks.engine.exchange import Exchange, Step, run_steps
from tasks.engine.stage import Work
from tasks.engine.subprocess_job import run_job

logger = logging.getLogger(__name__)

CLUSTERS_PART = "clusters.parquet"
"""Part of the snapshot with a row for each cluster of k-means (CLUSTERS)."""
CLUSTERS = pa.schema(
    [
        ("rows", pa.int64()),  # kept rows
        ("off_target", pa.int64()),  # rows that are dropped because the cluster has no target
        *CENTROIDS,
    ]
)
CENTROIDS_NAME = "_work/centroids.parquet"
"""Scratch table of the centroids (vectors.py, CENTROIDS)."""
FIT_ROWS_PER_CLUSTER, MAX_FIT_ROWS = 256, 1 << 20
"""Number of images that the clusters are fitted to: 2 GB of memory for a million of width 1,024."""


@dataclass(frozen=True)
class ClusterJob:
    """What all steps share."""

    config: CurateConfig
    seed: int
    rows: int
    """Number of rows that are kept so far."""
    batches: int
    lookup: Lookup | None = None
    """Features in the cache."""
    fit_share: float = 0.0
    """Share of the rows that the clusters are fitted to."""

    @property
    def layout(self) -> str:
        """Return the number of batches."""
        return f"clusters-{self.batches}"

    @property
    def clusters(self) -> ClustersConfig:
        """Return `[curate.clusters]`."""
        return getattr(self.config, NAME)

    @property
    def counts(self) -> Exchange:
        """Return the exchange of the sizes of clusters to this process."""
        return Exchange("cluster-sizes", self.batches, 1, 0, 0)


ClusterStep = Step[ClusterJob]
"""A step on a batch of raw shards (RawShard)."""


def add_clusters(work: Work[CurateConfig], shards: Sequence[RawShard]) -> StepOutput:
    """Find the clusters of the rows that are kept, and return CLUSTERS_PART and facts."""
    draft, context, units = work.draft, work.context.without_progress(), batch_shards(shards, work.config.units)
    size = sum(shard.size for shard in shards)
    job = ClusterJob(work.config, work.seed, size, len(units))

    def run(function: Callable[[Draft, ClusterStep], Record | None], units: Sequence[Any]) -> list[Record]:
        return run_steps([Step(function, n, job, unit) for n, unit in enumerate(units)], size, draft, context)

    kept = sum(part.rows for record in run(list_kept, units) for part in record.parts)
    images = [list_images(draft, unit, NAME) for unit in units]
    shards_of_targets, count = put_target_images(draft, job.clusters.targets)
    targets = [[shard] for shard in shards_of_targets]
    lookup = compute_score(job.clusters.find_scorer(), [*images, *targets], kept + count, draft, work.context)
    wanted = min(FIT_ROWS_PER_CLUSTER * job.clusters.count, MAX_FIT_ROWS)
    job = replace(job, rows=kept, lookup=lookup, fit_share=min(wanted / max(kept, 1), 1.0))
    fitted = [part for record in run(put_fit_rows, units) for part in record.parts]
    fit_clusters(job.clusters, [draft.path(part.name) for part in fitted if part.rows], work)

    found = {}
    if job.clusters.targets:
        batches = range(len(images), len(images) + len(targets))
        found["targets"] = put_target_clusters(draft, lookup, batches, CENTROIDS_NAME)
    run(assign_rows, units)
    table = _describe_clusters(job, draft)
    part = draft.put_table(CLUSTERS_PART, table)
    return StepOutput([part], ClustersFacts(**_summarise(table, kept, job), **found))


def fit_clusters(config: ClustersConfig, features: Sequence[str], work: Work[Any]) -> None:
    """Fit the clusters to stored features, and write CENTROIDS_NAME.

    Args:
        features: store names of tables (vectors.py, FIT_FEATURES) with rows; without any, there is no cluster.

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
    run_job("plugins.scores.clusters.fit_job", job, folder, on_line=lambda line: logger.info("clusters: %s", line))
    result = folder / "result" / "centroids.parquet"
    part = draft.put_table(CENTROIDS_NAME, read_parquet(result, str(result)))
    draft.finish(Record(task=task, parts=[part]))
    shutil.rmtree(folder)
    with suppress(OSError):  # not empty: the job of a scorer was killed
        folder.parent.rmdir()


def list_kept(draft: Draft, step: ClusterStep) -> Record:
    """Write the kept rows of each raw shard."""
    return Record(task=step.id, parts=[put_images(draft, shard, NAME) for shard in step.inputs])


def _read_features(draft: Draft, step: ClusterStep) -> pa.Table:
    """Return `uid` and `feature` of the kept rows of a batch; a feature may be null."""
    rows = pa.concat_tables(read_kept(draft, shard, NAME).select(["uid"]) for shard in step.inputs)
    assert step.job.lookup is not None
    return rows.append_column("feature", read_found(draft, step.job.lookup, step.number)["feature"])


def put_fit_rows(draft: Draft, step: ClusterStep) -> Record:
    """Write the rows of a batch that the clusters are fitted to (FIT_FEATURES), by a hash of uid and seed."""
    rows = _read_features(draft, step).filter(pc.field("feature").is_valid())
    seeds = pa.array([f"{step.job.seed} {uid}" for uid in rows["uid"].to_pylist()], pa.string())
    chosen = (hash128(seeds)[:, 0] >> np.uint64(11)) * 2.0**-53 < step.job.fit_share
    table = rows.filter(pa.array(chosen)).select(FIT_FEATURES.names).cast(FIT_FEATURES)
    return Record(task=step.id, parts=[draft.put_table(f"_work/fit-{step.number:05d}.parquet", table)])


def assign_rows(draft: Draft, step: ClusterStep) -> None:
    """Write the result of each raw shard of a batch: cluster (null without a feature), distance and drop reason."""
    rows = _read_features(draft, step)
    known: NDArray[np.bool_] = np.array(rows["feature"].is_valid())
    cluster, dot = np.full(len(known), -1, np.int32), np.zeros(len(known), np.int32)
    if known.any():
        centroids = Centroids.of_table(fetch_table(draft.store, draft.path(CENTROIDS_NAME)))
        features = rows["feature"].filter(pa.array(known))
        cluster[known], dot[known] = centroids.find_nearest(join_features(features.to_pylist()))
    is_off = known & ~is_on_target(draft, cluster) if step.job.clusters.targets else np.zeros(len(known), np.bool_)
    result = pa.table(
        {
            "image_cluster": pa.array(cluster, mask=~known),
            "centroid_distance": pa.array((1 - cosine(dot)).astype(np.float32), mask=~known),
            "drop_reason": pa.array([OFF_TARGET if off else None for off in is_off], pa.string()),
        }
    )
    start = 0
    for shard in step.inputs:
        count = read_table(draft.store, draft.path(images_name(NAME, shard)), ["key"]).num_rows
        put_result(draft, shard, NAME, result.slice(start, count))
        start += count
    sizes = pl.DataFrame({"cluster": cluster, "is_off": is_off}).filter(pl.col("cluster") >= 0)
    sizes = sizes.group_by("cluster", "is_off").len("rows").sort("cluster", "is_off")
    step.job.counts.write(draft, step.number, sizes.cast({"rows": pl.Int64}), np.zeros(sizes.height, np.uint16))


def _describe_clusters(job: ClusterJob, draft: Draft) -> pa.Table:
    """Return the clusters (CLUSTERS) with their sizes."""
    centroids = fetch_table(draft.store, draft.path(CENTROIDS_NAME))
    sizes = np.zeros((2, centroids.num_rows), np.int64)
    for table in job.counts.read_tables(draft, 0) if job.batches else ():
        places = table["is_off"].to_numpy().astype(np.int64), table["cluster"].to_numpy()
        np.add.at(sizes, places, table["rows"].to_numpy())
    return pa.table([*map(pa.array, sizes), *centroids.columns], schema=CLUSTERS)


def _summarise(table: pa.Table, rows: int, job: ClusterJob) -> dict[str, Any]:
    kept, off_target = (table[name].to_pylist() for name in ("rows", "off_target"))
    sizes = sorted(filter(None, kept))
    assert job.lookup is not None
    return {
        "scorer": job.lookup.scorer.digest,
        "model": job.lookup.scorer.model,
        "rows": rows,
        "without_feature": rows - sum(kept) - sum(off_target),
        "off_target": sum(off_target),
        "fitted": len(kept),
        "clusters": len(sizes),
        "sizes": {f"{share:g}": sizes[round(share * (len(sizes) - 1))] for share in (0, 0.1, 0.5, 0.9, 1) if sizes},
    }
