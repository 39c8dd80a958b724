"""`pairmill deploy`: creates the schedule, triggers, limits and notifications of a config in Prefect, or deletes them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.commands.options import Json
from flows.commands.output import console, new_table, print_json, print_waits, text
from plugins.deployment.request import DeployedObject, DeployRequest


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
        Parameter(
            help="Whether a scheduled run is queued or skipped while the last one still runs; skip begins only the newest"
            " of several late ones."
        ),
    ] = "queue",
    notify: Annotated[
        tuple[str, ...],
        Parameter(
            help="Notification block, as type/name, for failed runs, new champions, takedowns that are due and known "
            "harmful images. May be repeated."
        ),
    ] = (),
    retries: Annotated[
        int, Parameter(help="Number of times that a crashed run (killed, a lost machine) is run again by itself.")
    ] = 2,
    gpus: Annotated[int, Parameter(help="Number of trainings at a time, over all machines.")] = 1,
    pool: Annotated[str, Parameter(help="Work pool; training runs in POOL-gpu.")] = "pairmill",
    whole: Annotated[
        bool,
        Parameter(
            negative="",
            help="Each scheduled run makes the dataset of all files again. Default: it adds what is new, as [grow] does.",
        ),
    ] = False,
    remove: Annotated[bool, Parameter(negative="", help="Delete what was deployed for this config.")] = False,
    json: Json = False,
) -> int:
    """Create or update the schedule, triggers, limits and notifications of a config in Prefect.

    Args:
        config: TOML file, which the scheduled runs read too.
    """
    from plugins.deployment import deploy as deployment

    if remove:
        with print_waits():
            removed = deployment.remove(config)
        return show_removed(removed, as_json=json)
    request = DeployRequest(config, cron, timezone, until, overlap, notify, retries, gpus, pool, whole)
    with print_waits():
        deployed = deployment.deploy(request)
    return show_deployed(deployed, deployment.worker_commands(request), as_json=json)


def show_deployed(rows: Sequence[DeployedObject], workers: Sequence[str], *, as_json: bool) -> int:
    """Print what exists in Prefect now, its URLs, and the commands that start workers for it."""
    if as_json:
        print_json({"standing": [asdict(row) for row in rows], "workers": list(workers)})
        return 0
    out = console()
    for kind, column in (("deployment", "runs"), ("pool", "type"), ("automation", "state")):
        table = new_table(f"{kind.capitalize()}s", "name", column)
        for row in rows:
            if row.kind == kind:
                table.add_row(text(row.name), text(row.what))
        out.print(table)
        out.print()
    for row in rows:
        if row.kind == "deployment":
            out.write(f"{row.name:<24} {row.url}")
    out.message(f"\nFlow runs need workers. To start them on this machine: {workers[0]}")
    if not workers[1:]:
        out.write(
            "Workers on other machines cannot reach the Prefect server, which listens on this machine only. Start"
            " servers that they reach (infra/compose.yaml), name them in PREFECT_API_URL and MLFLOW_TRACKING_URI,"
            " and deploy again."
        )
        return 0
    out.write("On other machines, in a checkout, with the server's login in PREFECT_API_AUTH_STRING:")
    for command in workers[1:]:
        out.write(f"  {command}")
    return 0


def show_removed(names: Sequence[str], *, as_json: bool) -> int:
    """Print what was deleted from Prefect."""
    if as_json:
        print_json({"removed": list(names)})
        return 0
    out = console()
    for name in names:
        out.write(f"removed {name}")
    if not names:
        out.print("nothing was deployed for this config")
    return 0
