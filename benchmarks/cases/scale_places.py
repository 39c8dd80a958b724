"""Where benchmarks/scale.py measures: a cluster of Ray on this machine, and Prefect's and MLflow's servers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataops.home import CHECKOUT


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of Ray on loopback, of two nodes with a core each."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(paths)}
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**size, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    )
    try:
        cluster.add_node(**size, node_ip_address="127.0.0.3")
        yield str(cluster.address)
    finally:
        cluster.shutdown()


@contextmanager
def servers(home: Path) -> Iterator[None]:
    """The local servers, with all that they keep below a folder."""
    try:
        pairmill(home, "up")
        yield
    finally:
        pairmill(home, "down")


def pairmill(home: Path, *command: str) -> None:
    """A command of pairmill, whose home is below a folder."""
    environment = {**os.environ, "PAIRMILL_HOME": str(home / "home"), "PYTHONPATH": str(CHECKOUT)}
    code = "from flows.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, cwd=home, check=True, stdout=subprocess.DEVNULL
    )
