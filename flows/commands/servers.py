"""The commands over local servers and deployments: `up`, `down`, `status` and `deploy`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.commands.options import Json
from infra.local import services


def deploy(
    config: Path,
    *,
    cron: Annotated[
        str | None, Parameter(help="Schedule: '0 3 * * *' is 3:00 every night. Default: no schedule.")
    ] = None,
    timezone: Annotated[str, Parameter(help="Time zone of the cron line.")] = "Etc/UTC",
    until: Annotated[
        Literal["pack", "register"],
        Parameter(
            help="register: one flow run for all stages. pack: one for the dataset; a trigger then starts the training and"
            " the evaluation."
        ),
    ] = "register",
    overlap: Annotated[
        Literal["skip", "queue"],
        Parameter(help="Whether a scheduled run is skipped or queued while the last one still runs."),
    ] = "skip",
    notify: Annotated[
        tuple[str, ...],
        Parameter(
            help="Notification block, as type/name, for failed runs, new champions, takedowns that are due and known "
            "harmful images. May be repeated."
        ),
    ] = (),
    gpus: Annotated[int, Parameter(help="Number of trainings at a time, over all machines.")] = 1,
    pool: Annotated[str, Parameter(help="Work pool; training runs in POOL-gpu.")] = "pairmill",
    remove: Annotated[bool, Parameter(negative="", help="Delete what was deployed for this config.")] = False,
    json: Json = False,
) -> int:
    """Create or update the schedule, triggers, limits and notifications of a config in Prefect.

    Args:
        config: TOML file. Relative paths in it start at the current folder, for the scheduled runs too.
    """
    from flows.commands.output import print_waits, show_deployed, show_removed
    from flows.deployment import deploy as deployment
    from flows.deployment.request import DeployRequest

    if remove:
        with print_waits():
            removed = deployment.remove(config)
        return show_removed(removed, as_json=json)
    request = DeployRequest(config, cron, timezone, until, overlap, notify, gpus, pool)
    with print_waits():
        deployed = deployment.deploy(request)
    return show_deployed(deployed, deployment.worker_commands(request), as_json=json)


def up(
    *,
    worker: Annotated[bool, Parameter(negative="", help="Also start workers, which run deployed flows.")] = False,
    pool: Annotated[str, Parameter(help="With --worker: their work pool; training runs in POOL-gpu.")] = "pairmill",
    gpus: Annotated[int, Parameter(help="With --worker: number of trainings at a time on this machine, or 0.")] = 1,
    json: Json = False,
) -> int:
    """Start the local Prefect and MLflow servers."""
    from flows.commands.output import print_waits, show_services
    from infra.local.worker import start_workers

    with print_waits():
        running = services.up() + (start_workers(pool, gpus) if worker else [])
    return show_services(running, as_json=json)


def down(*, json: Json = False) -> int:
    """Stop the servers and workers that pairmill started."""
    from flows.commands.output import show_services

    return show_services(services.down(), as_json=json)


def status(
    *,
    show_login: Annotated[
        bool, Parameter(negative="", help="Print only the login that the pages of the Prefect server require.")
    ] = False,
    json: Json = False,
) -> int:
    """List the servers, their states and URLs."""
    from flows.commands.output import print_json, show_services

    if not show_login:
        return show_services(services.status(), as_json=json)
    login = services.show_login()
    print_json({"prefect": login}) if json else sys.stdout.write(f"{login}\n")
    return 0
