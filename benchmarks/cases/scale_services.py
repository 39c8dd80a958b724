"""Start a Ray cluster on this machine, and the servers of S3, Prefect and MLflow, for benchmarks/scale.py."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dataops.home import CHECKOUT
from tests.kills.seaweed import SeaweedFS

BUCKET = "exchange"


class RayNodes(NamedTuple):
    """A Ray cluster of two nodes with one core each."""

    address: str
    kill_second: Callable[[], None]
    """Kills the node that is not the head, with its workers and objects."""
    add_second: Callable[[], None]
    """Starts it again after that."""


@contextmanager
def ray_cluster() -> Iterator[RayNodes]:
    """Start two nodes on loopback, each with an address of its own."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(paths)}
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 512 << 20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**size, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    )
    others: list[Any] = []

    def add_second() -> None:
        others.append(cluster.add_node(**size, node_ip_address="127.0.0.3"))

    try:
        add_second()
        yield RayNodes(
            str(cluster.address), lambda: cluster.remove_node(others.pop(), allow_graceful=False), add_second
        )
    finally:
        cluster.shutdown()


@contextmanager
def s3_server(folder: Path) -> Iterator[None]:
    """Run SeaweedFS with a bucket; processes that start in the block find it by their environment."""
    folder.mkdir()
    weed = SeaweedFS(folder)
    weed.start()
    try:
        weed.create_bucket(BUCKET)
        os.environ |= weed.environment
        yield
    finally:
        weed.stop()


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
