"""`pairmill deploy`: checks the options, then creates the objects of infra/prefect.yaml in Prefect for one config.

Imports prefect only once the servers are known, because prefect reads its settings when it is imported.
"""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from httpx import HTTPError

from dataops.errors import ConfigError, ServiceError
from flows.config import config_name, load_config, with_growth
from infra.local import services
from plugins.deployment.request import DeployedObject, DeployRequest

if TYPE_CHECKING:  # it imports prefect
    from plugins.deployment.deployer import Deployer

_POOL = re.compile(r"(?!prefect)[a-z0-9][a-z0-9._-]{0,99}", re.IGNORECASE)
"""Names of work pools that Prefect takes, and that a shell reads as one word."""


def deploy(request: DeployRequest) -> list[DeployedObject]:
    """Check the request, start the local servers if no others are set, create or update, and return what now exists.

    Raises:
        ConfigError: an option or the config is wrong; nothing was changed in Prefect.
        ServiceError: the Prefect server did not answer, or refused.
    """
    config = load_config(request.config)
    check_request(request)
    if request.cron and not request.whole:
        try:
            load_config(request.config, with_growth(request.config))
        except ConfigError as error:  # each scheduled run would refuse it
            raise ConfigError(
                f"{error}\nor deploy with --whole: each run then makes the dataset of all files"
            ) from error
    with _connect() as deployer:
        pointer = _pointer(config.name)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_bytes(os.fsencode(config.store.uri))
        return deployer.deploy(request, config)


def remove(config: Path) -> list[str]:
    """Delete the deployments of a config, and with the last config all shared objects; return the deleted names."""
    try:
        name = config_name(config)
    except ConfigError as error:
        raise ConfigError(
            f'{error}. A file with the name alone is enough to remove it: name = "{config.stem}"'
        ) from error
    with _connect() as deployer:
        removed = deployer.remove(name)
    _pointer(name).unlink(missing_ok=True)
    return removed


def _pointer(name: str) -> Path:
    """Return the file by which flows/allowed_stores.py knows the store of a deployed config."""
    return services.home() / "deployed" / name


def worker_commands(request: DeployRequest) -> Sequence[str]:
    """Return the commands that start workers: first on this machine, then on others, where they run in a checkout.

    There are none for other machines if they cannot reach the Prefect server.
    """
    store, worker = shlex.quote(load_config(request.config).store.uri), "python -m plugins.deployment.process_worker"
    api = next(s.url for s in services.status() if s.name == "prefect")
    pool = "" if request.pool == DeployRequest.pool else f" --pool {request.pool}"
    gpus = "" if request.gpus == 1 else f" --gpus {request.gpus}"
    here = f"pairmill up --worker{pool}{gpus}"
    if is_loopback(api):
        return (here,)
    return (
        here,
        f"PREFECT_API_URL={api} PAIRMILL_STORES={store} {worker} --pool {request.pool}",
        f"PREFECT_API_URL={api} PAIRMILL_STORES={store} {worker} --pool {request.gpu_pool} --limit {request.gpus}",
    )


def is_loopback(url: str) -> bool:
    """Return whether only this machine reaches the host of a URL: a loopback address or name, or no host."""
    host = (urlsplit(url).hostname or "localhost").rstrip(".")
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


@contextmanager
def _connect() -> Iterator["Deployer"]:
    services.up()
    services.apply_environment()
    from prefect.client.orchestration import get_client

    from plugins.deployment.deployer import Deployer

    try:
        with get_client(sync_client=True) as client:
            yield Deployer(client)
    except HTTPError as error:
        raise ServiceError(
            f"the Prefect server failed ({error}), and the deployment may be incomplete; run `pairmill deploy` again"
        ) from error


def check_request(request: DeployRequest) -> None:
    """Raise a ConfigError that lists all wrong options."""
    problems = []
    if request.cron is not None:
        try:
            next(CronSim(request.cron, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            problems.append(
                f"--cron {request.cron!r}: {error or 'never fires'}; for 3:00 every night write '0 3 * * *'"
            )
    try:
        ZoneInfo(request.timezone)
    except (ValueError, OSError, KeyError):
        problems.append(f"--timezone {request.timezone!r}: there is no such time zone; write one such as Europe/Berlin")
    if not 0 <= request.retries <= 1000:
        problems.append(f"--retries {request.retries}: it must be from 0 to 1000")
    if not 1 <= request.gpus <= 1_000_000:
        problems.append(f"--gpus {request.gpus}: it must be from 1 to 1,000,000")
    if not _POOL.fullmatch(request.pool):
        problems.append(
            f"--pool {request.pool!r}: write up to 100 letters, digits, '.', '_' and '-', not beginning with prefect"
        )
    problems += [
        f"--notify {block!r}: write it as type/name, for example slack-webhook/ops"
        for block in request.notify
        if block.count("/") != 1
    ]
    if problems:
        raise ConfigError("\n".join(problems))
