"""Prefect workers of this machine, started with `pairmill up --worker`; `pairmill down` stops them and the servers.

A worker polls its pool and runs each flow run in a separate process. This module does not import prefect.
"""

import os
import socket

from dataops.home import CHECKOUT
from infra.local import services, supervisor
from infra.local.services import ServiceStatus
from tasks.engine.process_guard import GRACE_SECONDS

# Variables that clients of the servers may need; `ensure_service` removes them from the environment of servers.
_CLIENT_VARIABLES = (
    *("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_API_SSL_CERT_FILE", "PREFECT_CLIENT_CUSTOM_HEADERS"),
    *("PREFECT_HOME", "PREFECT_PROFILES_PATH", "PREFECT_WORKER_QUERY_SECONDS"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_S3_ENDPOINT_URL"),
)


def start_workers(pool: str, gpus: int) -> list[ServiceStatus]:
    """Start one worker of `pool`, and one of `<pool>-gpu` per GPU, unless they run; return when they poll.

    If there are several GPUs, each of their workers sees only one, so two trainings never share a GPU.

    Args:
        pool: a work pool of type process; it is created if it does not exist.
        gpus: number of GPUs to train on; 0 starts no worker for training.

    Raises:
        ConfigError: the pool's name cannot name a service.
        ServiceError: a worker did not start.
    """
    started = [_start(pool, pool, None)]
    for gpu in range(gpus):
        name = f"{pool}-gpu" if gpus == 1 else f"{pool}-gpu-{gpu}"
        started.append(_start(name, f"{pool}-gpu", gpu if gpus > 1 else None, limit=1))
    return started


def _start(name: str, pool: str, gpu: int | None, limit: int | None = None) -> ServiceStatus:
    command = ["python", "-m", "plugins.deployment.process_worker", "--pool", pool]
    command += ["--name", f"{name}@{socket.gethostname()}", "--with-healthcheck"]
    command += ["--limit", str(limit)] if limit else []
    env = supervisor.worker_environment(os.environ)
    env |= {variable: os.environ[variable] for variable in _CLIENT_VARIABLES if variable in os.environ}
    env |= services.client_environment() | {
        "PYTHONPATH": str(CHECKOUT),
        "PAIRMILL_HOME": str(services.home()),
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",  # all interfaces by default
        "PREFECT_WORKER_WEBSERVER_PORT": "{port}",
        "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",  # flows run in this environment
    }
    if gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = str(gpu)
    return services.ensure_service(
        f"worker-{name}", command, "/health", env, port=None, stop_grace_s=GRACE_SECONDS + 20
    )
