"""The job that computes image features in fixed point: `python -m plugins.scores.clusters.features_job JOB.json`.

The job file is that of training/score.py.
"""

import sys

import pyarrow as pa

from dataops.images.score_tables import ID, TO_SCORE
from dataops.parquet import read_parquet
from plugins.scores.clusters.vectors import round_features, split_features
from training.evaluation.encode import EvaluatedModel
from training.job import run_command
from training.score import ScoreJob, ShardToScore, encode_rows, score_shards


def encode_shard(loaded: EvaluatedModel, shard: ShardToScore, device: str, threads: int | None) -> pa.Table:
    """Return `id` and `feature` of the images of a shard, in the order of its rows; null if one cannot be decoded."""
    rows = read_parquet(shard.rows, str(shard.rows)).cast(TO_SCORE)
    features: list[bytes | None] = [None] * rows.num_rows
    for positions, feature_BD in encode_rows(loaded, shard, rows, device, threads):
        for position, feature in zip(positions, split_features(round_features(feature_BD.numpy())), strict=True):
            features[position] = feature
    return pa.table({"id": rows["id"].combine_chunks().cast(ID), "feature": pa.array(features, pa.binary())})


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, ScoreJob, lambda job: score_shards(job, encode_shard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
