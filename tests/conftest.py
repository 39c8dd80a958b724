"""Distribute the tests over the processes of pytest-xdist."""

from typing import Any

from xdist.scheduler import LoadFileScheduling

_TOGETHER = {
    "test_gc.py": "test_chaos.py",
    "test_s3_pipeline.py": "test_pipeline.py",
    "test_readme.py": "test_pipeline.py",
}
"""Test files that run in one process, because they share a costly session fixture."""


class ByServers(LoadFileScheduling):
    """Assign whole files; those that share servers or a costly fixture run in one process, which starts it once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder, _, name = file.rpartition("/")
        return "cluster" if "/cluster/" in file else f"{folder}/{_TOGETHER.get(name, name)}"


def pytest_xdist_make_scheduler(config: Any, log: Any) -> ByServers:
    return ByServers(config, log)
