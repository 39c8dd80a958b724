"""Fixtures of all unit tests, and the settings of Hypothesis."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.load_profile("ci")  # the same examples each time, and no time limit of an example: a busy machine exceeds it


@pytest.fixture(scope="session", autouse=True)
def _skip_fsync() -> Iterator[None]:
    """Skip fsync: a snapshot of a few rows is dozens of files, each synced with its folder.

    test_power_loss.py and test_store.py test what is synced, and in which order.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
