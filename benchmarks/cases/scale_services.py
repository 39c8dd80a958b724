"""Start a Ray cluster on this machine, and the servers of Prefect and MLflow, for benchmarks/scale.py."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataops.home import CHECKOUT


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Start two nodes of one core on loopback, each with an IP address of its own; yield the address of the cluster."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(paths)}
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 512 << 20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**size, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    )
    try:
        cluster.add_node(**size, node_ip_address="127.0.0.3")
        yield str(cluster.address)
    finally:
        cluster.shutdown()


@contextmanager
def local_servers(home: Path) -> Iterator[None]:
    """Run the local servers during the block, with their data below a folder."""
    try:
        run_pairmill(home, "up")
        yield
    finally:
        run_pairmill(home, "down")


def run_pairmill(home: Path, *command: str) -> None:
    """Run a command of pairmill with its home below a folder."""
    environment = {**os.environ, "PAIRMILL_HOME": str(home / "home"), "PYTHONPATH": str(CHECKOUT)}
    code = "from flows.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, cwd=home, check=True, stdout=subprocess.DEVNULL
    )
