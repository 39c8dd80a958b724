"""A cluster of Ray on loopback, whose nodes have addresses of their own. Ray is imported when it is asked for."""

from contextlib import contextmanager, suppress

import pytest

from dataops.home import CHECKOUT
from tests.concurrency import wait_for

HEAD, OTHER = {"node_ip_address": "127.0.0.2"}, {"node_ip_address": "127.0.0.3"}
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@contextmanager
def head_node(num_cpus=1):
    """Start a cluster of one node, the head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(CHECKOUT))  # the workers' code
        from ray._private import services
        from ray.cluster_utils import Cluster

        get_node = services.get_node

        def get_late_node(*place):
            """Wait until a node is there: Ray does for 30 s, without a setting, and a busy machine takes longer."""

            def found():
                with suppress(RuntimeError):
                    return get_node(*place)

            return wait_for(found, 300)

        patch.setattr(services, "get_node", get_late_node)

        arguments = {**NODE, **HEAD, "include_dashboard": False, "num_cpus": num_cpus}
        cluster = Cluster(initialize_head=True, head_node_args=arguments)
        try:
            yield cluster
        finally:
            cluster.shutdown()
