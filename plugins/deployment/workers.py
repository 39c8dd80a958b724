"""Prefect workers of this machine, started with `pairmill up --worker`; `pairmill down` stops them and the servers.

A worker polls its pool and runs each flow run in a separate process. This module does not import prefect.
"""

import logging
import os
import re
import socket
from collections.abc import Mapping
from functools import cache

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from dataops.process import NAMES, select_job_environment
from infra.local import services, supervisor
from infra.local.services import ServiceStatus
from plugins.deployment.late import RESUME, list_paused_pools
from tasks.engine.process_guard import GRACE_SECONDS

logger = logging.getLogger(__name__)

_OF_WORKERS = """
AWS_PROFILE AWS_DEFAULT_PROFILE AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_CONFIG_FILE
AWS_SHARED_CREDENTIALS_FILE AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN AWS_ROLE_SESSION_NAME AWS_CA_BUNDLE AWS_MAX_ATTEMPTS
AWS_RETRY_MODE AWS_EC2_METADATA_DISABLED AWS_REQUEST_CHECKSUM_CALCULATION AWS_RESPONSE_CHECKSUM_VALIDATION
OPENLINEAGE_URL OPENLINEAGE_ENDPOINT OPENLINEAGE_DISABLED PAIRMILL_STORES PAIRMILL_GIT_COMMIT PAIRMILL_OSV_URL
RAY_ADDRESS WANDB_MODE WANDB_DIR WANDB_BASE_URL WANDB_PROJECT WANDB_ENTITY
"""
WORKER_NAMES = NAMES | {*_OF_WORKERS.split()}
"""Names of variables that reach a local worker of flows, besides the families that reach jobs."""
_MAX_GPUS = 64  # more than one machine has; each gets a worker
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
        gpus: number of GPUs to train on, of those in CUDA_VISIBLE_DEVICES if it is set; 0 starts no worker for training.

    Raises:
        ConfigError: the pool's name cannot name a service, there cannot be so many GPUs, or workers for another number
            of them run.
        ServiceError: a worker did not start.
    """
    if not 0 <= gpus <= _MAX_GPUS:
        raise ConfigError(f"--gpus {gpus}: it must be from 0 to {_MAX_GPUS}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [*map(str, range(gpus))] if visible is None else [*filter(None, map(str.strip, visible.split(",")))]
    if gpus > max(1, len(devices)):
        raise ConfigError(f"--gpus {gpus}: CUDA_VISIBLE_DEVICES={visible} names {len(devices)}; change one of them")
    names = [f"{pool}-gpu"] if gpus == 1 else [f"{pool}-gpu-{gpu}" for gpu in range(gpus)]
    running = [service.name.removeprefix("worker-") for service in services.status() if service.pid]
    of_gpus = re.compile(f"{re.escape(pool)}-gpu(-[0-9]+)?")
    others = [name for name in running if of_gpus.fullmatch(name) and name not in names]
    if names and others:
        raise ConfigError(
            f"--gpus {gpus}: the workers of another number of GPUs run ({', '.join(others)}); stop them with "
            "`pairmill down`, then repeat this command"
        )
    started = [_start(pool, pool, None)]
    for gpu, name in enumerate(names):
        started.append(_start(name, f"{pool}-gpu", devices[gpu] if gpus > 1 else None, limit=1))
    for paused in sorted(list_paused_pools() & {pool, *([f"{pool}-gpu"] if gpus else [])}):
        _warn_of_pause(paused)
    return started


@cache  # `up --restart` starts workers again and again
def _warn_of_pause(pool: str) -> None:
    logger.warning("Work pool %s is paused, so no worker begins its runs. %s", pool, RESUME)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a local worker gets: also the settings of flows and what PAIRMILL_JOB_ENVIRONMENT names."""
    return supervisor.without_settings(select_job_environment(environ, allowed=WORKER_NAMES))


def _start(name: str, pool: str, device: str | None, limit: int | None = None) -> ServiceStatus:
    command = ["python", "-m", "plugins.deployment.process_worker", "--pool", pool]
    command += ["--name", f"{name}@{socket.gethostname()}", "--with-healthcheck"]
    command += ["--limit", str(limit)] if limit else []
    env = worker_environment(os.environ)
    env |= {variable: os.environ[variable] for variable in _CLIENT_VARIABLES if variable in os.environ}
    env |= services.client_environment() | {
        "PYTHONPATH": str(CHECKOUT),
        "PAIRMILL_HOME": str(services.home()),
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",  # all interfaces by default
        "PREFECT_WORKER_WEBSERVER_PORT": "{port}",
        "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",  # flows run in this environment
    }
    if device is not None:
        env["CUDA_VISIBLE_DEVICES"] = device
    return services.ensure_service(
        f"worker-{name}", command, "/health", env, port=None, stop_grace_s=GRACE_SECONDS + 20
    )
