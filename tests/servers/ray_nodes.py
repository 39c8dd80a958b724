"""A cluster of Ray on loopback, whose nodes have addresses of their own. Ray is imported when it is asked for."""

from contextlib import contextmanager

import pytest

from dataops.home import CHECKOUT

HEAD, OTHER = {"node_ip_address": "127.0.0.2"}, {"node_ip_address": "127.0.0.3"}
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextmanager
def head_node(num_cpus=1):
    """Start a cluster of one node, the head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "300")  # on a busy machine a node takes longer than 30 s
        patch.setenv("PYTHONPATH", str(CHECKOUT))  # the workers' code
        from ray.cluster_utils import Cluster

        arguments = {**NODE, **HEAD, "include_dashboard": False, "num_cpus": num_cpus}
        cluster = Cluster(initialize_head=True, head_node_args=arguments)
        try:
            yield cluster
        finally:
            cluster.shutdown()
