"""Libraries that tests compare with and that take seconds to import: a process imports those that its tests use."""

from importlib import import_module

import pytest


def scipy(module):
    return import_module(f"scipy.{module}")


def sklearn(module):
    return import_module(f"sklearn.{module}")


def open_clip():
    """Return open_clip. Test files that use it are of one `xdist_group`: one process imports it."""
    return pytest.importorskip("open_clip")
