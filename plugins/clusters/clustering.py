"""Find clusters of the images that curate keeps, drop semantic duplicates in them, and balance them.

1. list_kept, by batches of raw shards: list the rows that are kept so far;
2. compute or look up the feature of each image (tasks.curate.scores), in fixed point (plugins.clusters.vectors);
3. put_fit_rows: choose rows by a hash of uid and seed, and fit the clusters to them in a job (plugins.clusters.fit_job);
4. assign_rows: find the nearest centroid of each row, and drop it if the config names targets and the cluster has none;
5. drop_similar, by partitions of clusters, if the config asks for it: find semantic duplicates;
6. put_clustered: write the cluster of each row and its state, and count the rows of each state;
7. merge small clusters, write CLUSTERS_PART, and put_results: write the result of each raw shard.

The output depends neither on the order of the rows nor on their distribution over shards.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataops.kernels.hashes import hash128, uid_halves
from dataops.parquet import read_parquet
from dataops.snapshot import Draft, Record, fetch_table, read_table
from plugins.clusters.balance import compute_probabilities, merge_small_clusters
from plugins.clusters.config import NAME, ClustersConfig, ClustersFacts
from plugins.clusters.semantic_duplicates import find_duplicates
from plugins.clusters.targets import is_on_target, put_target_clusters, put_target_images
from plugins.clusters.vectors import CENTROIDS, FIT_FEATURES, Centroids, cosine, join_features
from tasks.curate.choose import MIX, batch_shards
from tasks.curate.config import CurateConfig
from tasks.curate.decisions import images_name, put_images, put_result, read_kept
from tasks.curate.inspect_images import RawShard
from tasks.curate.scores.compute import Lookup, compute_score, list_images, read_found
from tasks.curate.step import StepOutput
from tasks.engine.exchange import Exchange, Step, number_partitions, put_frame, read_frame, run_steps
from tasks.engine.stage import Work
from tasks.engine.subprocess_job import run_job

logger = logging.getLogger(__name__)

CLUSTERS_PART = "clusters.parquet"
"""Part of the snapshot with a row for each cluster of k-means (CLUSTERS)."""
CLUSTERS = pa.schema(
    [
        ("image_cluster", pa.int32()),  # the cluster that this one was merged into; its own number if it was not
        ("rows", pa.int64()),  # kept rows of this cluster of k-means, before small ones were merged
        ("semantic_duplicates", pa.int64()),
        ("off_target", pa.int64()),  # rows that are dropped because the cluster has no target
        ("sampling_probability", pa.float32()),
        *CENTROIDS,
    ]
)
COUNTED = [name for name in CLUSTERS.names if name not in CENTROIDS.names]
"""Columns of CLUSTERS without the centroids."""
CENTROIDS_NAME = "_work/centroids.parquet"
"""Scratch table of the centroids (plugins.clusters.vectors.CENTROIDS)."""
FIT_ROWS_PER_CLUSTER, MAX_FIT_ROWS = 256, 1 << 20
"""Number of images that the clusters are fitted to: 2 GB of memory for a million of width 1,024."""
_MEMORY_BYTES = 1 << 30
_FEATURE_BYTES = 1024
"""Expected size of a feature."""


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
        """Return the number of batches and partitions."""
        return f"clusters-{self.batches}x{self.partitions}"

    @property
    def clusters(self) -> ClustersConfig:
        """Return `[curate.clusters]`."""
        return getattr(self.config, NAME)

    @property
    def partitions(self) -> int:
        """Return the number of partitions of clusters."""
        return max(-(-self.rows // self.config.units.partition_rows), 1)

    @property
    def members(self) -> Exchange:
        """Return the exchange of the rows to the partitions of their clusters."""
        size = self.rows * (_FEATURE_BYTES + 50)
        return Exchange("cluster-members", self.batches, self.partitions, size, _MEMORY_BYTES)

    @property
    def similar(self) -> Exchange:
        """Return the exchange of semantic duplicates to their batches."""
        return Exchange("semantic-duplicates", self.partitions, self.batches, self.rows * 4, _MEMORY_BYTES)

    @property
    def counts(self) -> Exchange:
        """Return the exchange of the sizes of clusters to this process."""
        return Exchange("cluster-sizes", self.batches, 1, 0, 0)


KEPT, SIMILAR, OFF_TARGET = 0, 1, 2
"""Values of `state`, in the order of the counts in CLUSTERS."""
REASONS = {SIMILAR: "semantic_duplicate", OFF_TARGET: "off_target"}

ClusterStep = Step[ClusterJob]
"""A step on a batch of raw shards (RawShard), or on a partition of clusters."""


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
    if job.clusters.semantic_duplicates:
        run_steps(job.members.merge_steps(), kept, draft, context)
        run(drop_similar, [()] * job.partitions)
        run_steps(job.similar.merge_steps(), kept, draft, context)
    run(put_clustered, units)
    table = _describe_clusters(job, draft)
    part = draft.put_table(CLUSTERS_PART, table)
    run(put_results, units)
    return StepOutput([part], ClustersFacts(**_summarise(table, kept, job), **found))


def fit_clusters(config: ClustersConfig, features: Sequence[str], work: Work[Any]) -> None:
    """Fit the clusters to stored features, and write CENTROIDS_NAME.

    Args:
        features: store names of tables (plugins.clusters.vectors.FIT_FEATURES) with rows; without any, there is no cluster.

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
    run_job("plugins.clusters.fit_job", job, folder, on_line=lambda line: logger.info("clusters: %s", line))
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
    """Return `uid`, `feature` and the scores of the kept rows of a batch; a feature may be null."""
    names = ["uid", *step.job.config.score_names]
    rows = pa.concat_tables(read_kept(draft, shard, NAME).select(names) for shard in step.inputs)
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
    """Write the cluster of each row of a batch (-1 without a feature), and put the rows by cluster."""
    rows = _read_features(draft, step)
    known: NDArray[np.bool_] = np.array(rows["feature"].is_valid())
    cluster, dot = np.full(len(known), -1, np.int32), np.zeros(len(known), np.int32)
    if known.any():
        centroids = Centroids.of_table(fetch_table(draft.store, draft.path(CENTROIDS_NAME)))
        features = rows["feature"].filter(pa.array(known))
        cluster[known], dot[known] = centroids.find_nearest(join_features(features.to_pylist()))
    state = np.full(len(known), KEPT, np.uint8)
    if step.job.clusters.targets:
        state[known & ~is_on_target(draft, cluster)] = OFF_TARGET
    put_frame(draft, _assigned_name(step), pl.DataFrame({"cluster": cluster, "dot": dot, "state": state}))
    if (duplicates := step.job.clusters.semantic_duplicates) is None:
        return
    uids = uid_halves(rows["uid"].combine_chunks())
    order = -dot.astype(np.float32) if duplicates.keep == "far" else pl.Series(rows["clip_score"]).fill_null(-2)
    members = pl.DataFrame({"row": np.arange(len(known), dtype=np.uint32), "cluster": cluster})
    members = members.with_columns(
        order=pl.Series(order, dtype=pl.Float32),
        uid_high=pl.Series(uids[:, 0]),
        uid_low=pl.Series(uids[:, 1]),
        feature=pl.Series(rows["feature"].to_pylist(), dtype=pl.Binary),
    ).filter(pl.Series(known & (state == KEPT)))
    mixed = pl.Series(members["cluster"].to_numpy().astype(np.uint64) * MIX, dtype=pl.UInt64)
    step.job.members.write(draft, step.number, members, number_partitions(mixed, step.job.partitions))


def drop_similar(draft: Draft, step: ClusterStep) -> None:
    """Put the semantic duplicates of a partition by batch."""
    duplicates, exchange = step.job.clusters.semantic_duplicates, step.job.members
    assert duplicates is not None
    read = partial(exchange.read_tables, draft, step.number)
    dropped = find_duplicates(read, duplicates.min_cosine, same_caption=step.job.config.same_caption)
    step.job.similar.write(draft, step.number, dropped.select("row"), dropped["part"])


def put_clustered(draft: Draft, step: ClusterStep) -> None:
    """Write the cluster and the state of the kept rows of each raw shard; put the sizes of the clusters."""
    rows = read_frame(draft, _assigned_name(step))
    if step.job.clusters.semantic_duplicates:
        state = rows["state"].to_numpy().copy()
        state[step.job.similar.read(draft, step.number)["row"].to_numpy()] = SIMILAR
        rows = rows.with_columns(state=pl.Series(state))
    start = 0
    for shard in step.inputs:
        count = read_table(draft.store, draft.path(images_name(NAME, shard)), ["key"]).num_rows
        put_frame(draft, _clustered_name(shard.number), rows[start : start + count])
        start += count
    sizes = rows.filter(pl.col("cluster") >= 0).group_by("cluster", "state").len("rows").sort("cluster", "state")
    sizes = sizes.with_columns(pl.col("rows").cast(pl.Int64))
    step.job.counts.write(draft, step.number, sizes, np.zeros(sizes.height, np.uint16))


def _describe_clusters(job: ClusterJob, draft: Draft) -> pa.Table:
    """Return the clusters (CLUSTERS): their sizes, those that they are merged into, and probabilities."""
    centroids = fetch_table(draft.store, draft.path(CENTROIDS_NAME))
    sizes = np.zeros((centroids.num_rows, 3), np.int64)
    for table in job.counts.read_tables(draft, 0) if job.batches else ():
        np.add.at(sizes, (table["cluster"].to_numpy(), table["state"].to_numpy()), table["rows"].to_numpy())
    kept = sizes[:, KEPT].tolist()
    into = merge_small_clusters(kept, join_features(centroids["centroid"].to_pylist()), job.clusters.min_size)
    merged = np.bincount(np.array(into, np.int64), weights=kept, minlength=len(kept)).astype(np.int64).tolist()
    balance = job.clusters.balance
    chances = [1.0] * len(kept)
    if balance:
        chances = compute_probabilities(merged, balance.alpha, balance.epoch_fraction)
    columns = [
        into,
        kept,
        sizes[:, SIMILAR],
        sizes[:, OFF_TARGET],
        [chances[cluster] for cluster in into],
        *centroids.columns,
    ]
    return pa.table(dict(zip(CLUSTERS.names, columns, strict=True)), schema=CLUSTERS)


def _summarise(table: pa.Table, rows: int, job: ClusterJob) -> dict[str, Any]:
    clusters = pl.DataFrame(table.select(COUNTED))
    merged = clusters.group_by("image_cluster").agg(pl.col("rows").sum(), pl.col("sampling_probability").first())
    merged = merged.filter(pl.col("rows") > 0)
    sizes = sorted(merged["rows"].to_list())
    epoch = merged.select((pl.col("rows") * pl.col("sampling_probability").cast(pl.Float64)).sum()).item()
    assert job.lookup is not None
    totals = {name: sum(table[name].to_pylist()) for name in ("rows", "semantic_duplicates", "off_target")}
    return {
        "scorer": job.lookup.scorer.digest,
        "model": job.lookup.scorer.model,
        "rows": rows,
        "without_feature": rows - sum(totals.values()),
        "semantic_duplicates": totals["semantic_duplicates"],
        "off_target": totals["off_target"],
        "fitted": len(clusters),
        "clusters": len(sizes),
        "sizes": {f"{share:g}": sizes[round(share * (len(sizes) - 1))] for share in (0, 0.1, 0.5, 0.9, 1) if sizes},
        "epoch_rows": round(epoch, 3),
    }


def put_results(draft: Draft, step: ClusterStep) -> None:
    """Write the result of each raw shard: clusters, probabilities if they are balanced, and reasons."""
    table = fetch_table(draft.store, draft.path(CLUSTERS_PART), COUNTED)
    for shard in step.inputs:
        rows = read_frame(draft, _clustered_name(shard.number))
        known = rows["cluster"].to_numpy() >= 0
        clusters = pa.array(rows["cluster"].to_numpy(), mask=~known)
        distances = (1 - cosine(rows["dot"].to_numpy())).astype(np.float32)
        columns = {
            "image_cluster": table["image_cluster"].combine_chunks().take(clusters),
            "centroid_distance": pa.array(distances, mask=~known),
            "drop_reason": pa.array([REASONS.get(state) for state in rows["state"].to_list()], pa.string()),
        }
        if step.job.clusters.balance:
            chances = table["sampling_probability"].combine_chunks().take(clusters)
            before = read_kept(draft, shard, NAME)["sampling_probability"]
            columns["sampling_probability"] = _multiply_probabilities(before, chances)
        put_result(draft, shard, NAME, pa.table(columns))


def _multiply_probabilities(before: pa.ChunkedArray, chances: pa.Array) -> pa.Array:
    """Return the product of the probabilities that balancing by queries and by clusters give; null if there is none."""
    values = pl.DataFrame({"before": pl.Series(before).cast(pl.Float32), "chance": pl.Series(chances)})
    product = pl.col("chance").fill_null(1.0) * pl.col("before").fill_null(1.0)
    product = pl.when(pl.col("before").is_not_null() | pl.col("chance").is_not_null()).then(product)
    return values.select(product).to_series().to_arrow().cast(pa.float32())


def _clustered_name(number: str) -> str:
    return f"clustered-{number}.table"


def _assigned_name(step: ClusterStep) -> str:
    return f"assigned-{step.job.layout}-{step.number:05d}.table"
