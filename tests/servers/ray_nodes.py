"""A cluster of Ray on loopback, whose nodes have addresses of their own. Ray is imported when it is asked for."""

from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from tests.concurrency import wait_for
from tests.kills.seaweed import free_port

HEAD, OTHER = {"node_ip_address": "127.0.0.2"}, {"node_ip_address": "127.0.0.3"}
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
"""Ports of a node's agents. For each that it chooses itself, Ray waits 15 s, without a setting, and then ends the node."""
NODE_ID, SESSION = 2, 11
"""Positions of arguments of ray._private.services.start_raylet."""


@contextmanager
def head_node(num_cpus=1):
    """Start a cluster of one node, the head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(CHECKOUT))  # the workers' code
        from ray._private import services
        from ray.cluster_utils import Cluster

        get_node, start = services.get_node, services.start_raylet

        def get_late_node(*place):
            """Wait until a node is there: Ray does for 30 s, without a setting, and a busy machine takes longer."""

            def found():
                with suppress(RuntimeError):
                    return get_node(*place)

            return wait_for(found, 300)

        def start_raylet(*place, **options):
            """Write the port that Ray does not hand to the raylet, which else waits until the agent has written it."""
            name = "dashboard_agent_listen_port"
            (Path(place[SESSION]) / f"{name}_{place[NODE_ID]}").write_text(str(options[name]))
            return start(*place, **options)

        patch.setattr(services, "start_raylet", start_raylet)
        patch.setattr(services, "get_node", get_late_node)

        class Nodes(Cluster):
            def add_node(self, **arguments):
                return super().add_node(**arguments, **{name: free_port() for name in PORTS})

        arguments = {**NODE, **HEAD, "include_dashboard": False, "num_cpus": num_cpus}
        cluster = Nodes(initialize_head=True, head_node_args=arguments)
        try:
            yield cluster
        finally:
            cluster.shutdown()
