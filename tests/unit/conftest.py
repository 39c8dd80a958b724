"""What all unit tests share."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _nobody_pulls_the_plug() -> Iterator[None]:
    """Nothing waits for the disk: a snapshot of a few rows is dozens of files, each synced with its folder.

    What is synced, and in which order, test_power_loss.py and test_store.py look at.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
