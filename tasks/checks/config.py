"""The `[checks]` table of the run config. Nothing in it enters the key of a snapshot."""

from dataops.plugins import extend
from tasks.checks.check import CheckLevels


class ChecksConfig(extend(CheckLevels, "checks")):
    """The `[checks]` table: what a dataset must be like before anything is trained on it (docs/checks.md)."""
