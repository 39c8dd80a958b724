"""Fixtures of all unit tests."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _skip_fsync():
    """Skip fsync: a snapshot of a few rows is dozens of files, each synced with its folder.

    test_power_loss.py and test_store.py test what is synced, and in which order.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
