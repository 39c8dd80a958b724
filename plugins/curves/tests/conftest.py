"""Fixtures of trainings."""

from tests.trainings import make_job, process_state, sampled_shards, shards, suite  # noqa: F401
