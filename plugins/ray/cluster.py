"""A Ray cluster and its keys of `[execution]`."""

import importlib
import importlib.util
import os
import socket
from dataclasses import dataclass
from typing import Any

from pydantic import Field, NonNegativeInt

from dataops.config import FrozenModel

REMEDY = "install it here and on each machine of the cluster: pip install 'pairmill[ray]'"
PROBE_SECONDS = 2.0
"""Seconds between two probes of the head, and the timeout of each."""


class RayConfig(FrozenModel):
    """Keys of `[execution]` for `engine = "ray"` and `train.launch = "ray"`."""

    ray_address: str = Field(
        default="auto",
        pattern=r"^(auto|[A-Za-z0-9._\-\[\]:]+:([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]))$",
    )
    """HOST:PORT of the head, as `ray start --head` prints it (not its ray:// server), or auto for the cluster of this
    machine. This machine must be a node of the cluster: `ray start --address HOST:PORT --num-cpus 0`."""
    ray_cpus: float = Field(default=1.0, gt=0, le=1024)
    """Number of cores that a task needs on Ray."""
    ray_memory_bytes: NonNegativeInt = 0
    """Memory that a task needs on Ray, in bytes, for its placement; 0: Ray does not count it. A task whose worker died is
    repeated with twice as much, at most that of the largest machine."""
    ray_max_retries: int = Field(default=3, ge=0, le=100)
    """Number of restarts of a training whose worker or machine died."""
    ray_shared_store: bool = False
    """True if all machines of the cluster share the folder of `store.uri`."""


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, and the resources that one task takes of it."""

    address: str
    """HOST:PORT of the head's control service, or `auto`: the cluster of this machine."""
    workers: int | None = None
    """Maximum number of tasks at a time; None: as many as the cluster has resources for."""
    cpus: float = 1.0
    """CPU cores that one task takes."""
    memory_bytes: int = 0
    """Memory that one task takes, in bytes; 0: not counted."""
    max_retries: int = 3
    """Number of restarts of a training whose worker or node died."""
    shared_store: bool = False
    """True if all nodes of the cluster share the folder of the store, at the same path."""


@dataclass(frozen=True)
class ClusterCapacity:
    """Size of a cluster when its driver connected."""

    head: str
    """HOST:PORT of the head's control service."""
    machines: tuple[str, ...]
    """Host names of its machines; several nodes of one machine count once."""
    slots: int
    """Number of tasks that run at a time."""
    slots_per_machine: int
    """Number of tasks that run at a time on the machine with the most resources."""


def is_listening(address: str) -> bool:
    """Return whether a server listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS):  # noqa: TID251  asks whether the configured head listens
            return True
    except (OSError, ValueError):
        return False


def missing_ray() -> str | None:
    """Return that Ray is not installed, with the remedy; None if it is installed."""
    return None if importlib.util.find_spec("ray") else f"Ray is not installed: {REMEDY}"


def import_ray() -> Any:
    """Return the module of Ray, which sends no usage statistics from here."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    return importlib.import_module("ray")
