"""The commands over the local servers, and over what runs by itself on them."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.commands.options import Json
from infra.local import services


def deploy(
    config: Path,
    *,
    cron: Annotated[str | None, Parameter(help="When: '0 3 * * *' is 3:00 each night. None: by hand only.")] = None,
    timezone: Annotated[str, Parameter(help="Of the cron line.")] = "Etc/UTC",
    until: Annotated[
        Literal["pack", "register"],
        Parameter(
            help="register: all in one flow run. pack: the dataset; training and evaluation then start by trigger."
        ),
    ] = "register",
    overlap: Annotated[
        Literal["skip", "queue"], Parameter(help="What becomes of a schedule that fires while the last run still goes.")
    ] = "skip",
    notify: Annotated[
        tuple[str, ...], Parameter(help="Notification block, type/name, for failures and new champions.")
    ] = (),
    gpus: Annotated[int, Parameter(help="Trainings at a time, over all machines.")] = 1,
    pool: Annotated[str, Parameter(help="Work pool; training runs in POOL-gpu.")] = "pairmill",
    remove: Annotated[bool, Parameter(negative="", help="Delete what was deployed for this config.")] = False,
    json: Json = False,
) -> int:
    """Make schedule, triggers, limits and notifications of a config stand in Prefect, or bring them up to date.

    Args:
        config: TOML file; relative paths in it count from the present folder, also for the scheduled runs.
    """
    from flows.commands.output import show_deployed, show_removed
    from flows.deployment.deploy import deploy as make_stand
    from flows.deployment.deploy import remove as delete
    from flows.deployment.deploy import workers
    from flows.deployment.order import DeployRequest

    if remove:
        return show_removed(delete(config), as_json=json)
    order = DeployRequest(config, cron, timezone, until, overlap, notify, gpus, pool)
    return show_deployed(make_stand(order), workers(order), as_json=json)


def up(
    *,
    worker: Annotated[bool, Parameter(negative="", help="Also keep workers here, which run what is deployed.")] = False,
    pool: Annotated[str, Parameter(help="With --worker: their work pool; training runs in POOL-gpu.")] = "pairmill",
    gpus: Annotated[int, Parameter(help="With --worker: trainings at a time here; 0 for none.")] = 1,
    json: Json = False,
) -> int:
    """Start the local Prefect and MLflow servers."""
    from flows.commands.output import show_services
    from infra.local.worker import start_workers

    running = services.up()
    return show_services(running + (start_workers(pool, gpus) if worker else []), as_json=json)


def down(*, json: Json = False) -> int:
    """Stop the servers that `up` or `demo` started."""
    from flows.commands.output import show_services

    return show_services(services.down(), as_json=json)


def status(*, json: Json = False) -> int:
    """Say which servers run, and where."""
    from flows.commands.output import show_services

    return show_services(services.status(), as_json=json)
