"""How tests are spread over the processes of pytest-xdist."""

from typing import Any

from xdist.scheduler import LoadFileScheduling

_TOGETHER = {"test_gc.py": "test_chaos.py", "test_s3_pipeline.py": "test_pipeline.py"}
"""Files that share a costly fixture of the session: one process makes it once for both."""


class ByServers(LoadFileScheduling):
    """A file at a time; what shares servers or a costly fixture stays together, so that it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder, _, name = file.rpartition("/")
        return "cluster" if "/cluster/" in file else f"{folder}/{_TOGETHER.get(name, name)}"


def pytest_xdist_make_scheduler(config: Any, log: Any) -> ByServers:
    return ByServers(config, log)
