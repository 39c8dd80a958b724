"""`pairmill deploy`: checks what is asked for, then makes infra/prefect.yaml stand in Prefect for one config.

Imports prefect only once the servers are known: it reads its settings then.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from httpx import HTTPError

from dataops.errors import ConfigError, ServiceError
from flows.config import config_name, load_config
from flows.deployment.order import DeployRequest, Row
from infra.local import services

if TYPE_CHECKING:
    from flows.deployment.deployer import Deployer


def deploy(order: DeployRequest) -> list[Row]:
    """Check everything, start the local servers where none are named, then create or update; what stands afterwards.

    Raises:
        ConfigError: the config, the cron line, the time zone, a block or a number is wrong; nothing is made.
        ServiceError: the Prefect server did not answer, or refused.
    """
    config = load_config(order.config)
    _check(order)
    with _deployer() as deployer:
        return deployer.make(order, config)


def remove(config: Path) -> list[str]:
    """Delete the deployments of a config, and with the last of them all that they shared; the names of what is gone."""
    name = config_name(config)
    with _deployer() as deployer:
        return deployer.remove(name)


def workers(order: DeployRequest) -> Sequence[str]:
    """The commands that start workers: here, or on other machines."""
    api = next(s.url for s in services.status() if s.name == "prefect")
    pool = "" if order.pool == DeployRequest.pool else f" --pool {order.pool}"
    gpus = "" if order.gpus == 1 else f" --gpus {order.gpus}"
    return (
        f"pairmill up --worker{pool}{gpus}",
        f"PREFECT_API_URL={api} prefect worker start --type process --pool {order.pool}",
        f"PREFECT_API_URL={api} prefect worker start --type process --pool {order.gpu_pool} --limit {order.gpus}",
    )


@contextmanager
def _deployer() -> Iterator["Deployer"]:
    services.up()
    services.apply_environment()
    from flows.deployment.deployer import Deployer

    try:
        with Deployer() as deployer:
            yield deployer
    except HTTPError as error:
        raise ServiceError(
            f"the Prefect server did not take it ({error}); a part may stand: call `pairmill deploy` again"
        ) from error


def _check(order: DeployRequest) -> None:
    problems = []
    if order.cron is not None:
        try:
            next(CronSim(order.cron, datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            problems.append(f"--cron {order.cron!r}: {error or 'never fires'}; for 3:00 each night write '0 3 * * *'")
    try:
        ZoneInfo(order.timezone)
    except (ValueError, OSError, KeyError):
        problems.append(f"--timezone {order.timezone!r}: no such zone; write one as Europe/Berlin")
    if order.gpus < 1:
        problems.append(f"--gpus {order.gpus}: at least 1")
    problems += [
        f"--notify {b!r}: write it as type/name, as slack-webhook/ops" for b in order.notify if b.count("/") != 1
    ]
    if problems:
        raise ConfigError("\n".join(problems))
