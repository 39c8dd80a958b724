"""How tests are spread over the processes of pytest-xdist."""

from typing import Any

from xdist.scheduler import LoadFileScheduling


class ByServers(LoadFileScheduling):
    """A file at a time; what shares the servers of the cluster stays together, so that they are started once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "cluster" if "/cluster/" in file else file


def pytest_xdist_make_scheduler(config: Any, log: Any) -> ByServers:
    return ByServers(config, log)
