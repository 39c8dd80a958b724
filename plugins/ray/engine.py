"""The executor `ray`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from dataops.snapshot import Manifest
from dataops.store import Store
from plugins.ray.cluster import REMEDY, RayCluster, RayConfig, is_listening, missing_ray
from tasks.engine.context import Context, Engine, Finding, OpenWorkers
from tasks.engine.stage import Plan


@dataclass(frozen=True)
class RayExecutor(RayCluster):
    """Workers of a Ray cluster."""

    shares_disk: bool = False
    """Its workers may be on other machines."""

    @contextmanager
    def open(self, workers: int, store: Store) -> Iterator[OpenWorkers]:
        """Use the cluster as a pool inside the `with`; it has its own number of workers."""
        from plugins.ray.pool import ray_pool

        with ray_pool(self, store) as pool:
            yield OpenWorkers(pool, pool.capacity.slots, pool.capacity.slots_per_machine)


def read_cluster(execution: Any) -> RayExecutor:
    """Return the cluster that the `[execution]` table describes."""
    more = (execution.ray_cpus, execution.ray_memory_bytes, execution.ray_max_retries, execution.ray_shared_store)
    return RayExecutor(execution.ray_address, execution.workers, *more)


def diagnose(execution: Mapping[str, Any]) -> Finding:
    """Check that Ray is installed and its head answers."""
    if problem := missing_ray():
        return Finding(False, problem, REMEDY)
    address, version = str(execution.get("ray_address", "auto")), metadata.version("ray")
    if address != "auto" and not is_listening(address):
        start = "run `ray start --head` there and `ray start --address HOST:PORT` on the other machines"
        detail = f"no Ray head answers at {address} (ray {version} is installed here)"
        return Finding(False, detail, f"{start}; or correct execution.ray_address")
    return Finding(True, f"{version}, cluster at {address}; all its machines need this version")


def train(executor: Any, planned: Plan[Any], context: Context) -> Manifest:
    """Make the snapshot of a training on the cluster."""
    from plugins.ray.launcher import train_on_ray

    return train_on_ray(planned, context, executor)


RAY = Engine(read_cluster, RayConfig, missing=missing_ray, train=train, diagnose=diagnose)
