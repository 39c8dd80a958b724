"""Start a Ray cluster on this machine, for benchmarks/scale.py and benchmarks/engines.py."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
