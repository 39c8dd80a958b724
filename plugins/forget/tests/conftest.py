"""Fixtures of trainings."""

from tests.trainings import process_state  # noqa: F401
