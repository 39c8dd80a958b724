"""The train stage: the training job, its shards, checkpoints and metrics."""
