"""Start a Ray cluster on this machine, for benchmarks/scale.py, benchmarks/engines.py and benchmarks/soak.py."""

import os
from contextlib import contextmanager

from dataops.home import CHECKOUT

NODE = {"num_cpus": 1, "object_store_memory": 512 << 20}


@contextmanager
def ray_cluster():
    """Start two nodes of one core on loopback, each with an IP address of its own; yield Ray's `Cluster`."""
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(paths)}
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112  Ray's own name; for a busy machine
    from ray.cluster_utils import Cluster

    head = {**NODE, "node_ip_address": "127.0.0.2", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**NODE, node_ip_address="127.0.0.3")
        yield cluster
    finally:
        cluster.shutdown()
