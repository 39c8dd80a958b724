"""Fixtures of trainings."""

from tests.trainings import make_job, process_state, shards  # noqa: F401
