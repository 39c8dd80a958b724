"""The commands over local servers: `up`, `down` and `status`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from dataops.home import home
from dataops.plugins import find, load
from flows.commands.options import Json
from flows.commands.output import console, first_page, new_table, print_json, print_waits
from infra.local import services
from infra.local.services import ServiceStatus


def up(
    *,
    worker: Annotated[bool, Parameter(negative="", help="Also start workers, which run deployed flows.")] = False,
    pool: Annotated[str, Parameter(help="With --worker: their work pool; training runs in POOL-gpu.")] = "pairmill",
    gpus: Annotated[int, Parameter(help="With --worker: number of trainings at a time on this machine, or 0.")] = 1,
    restart: Annotated[
        bool,
        Parameter(
            negative="",
            help="Stay, and start again what has ended, until SIGTERM or Ctrl-C stops all; for a service of the system.",
        ),
    ] = False,
    json: Json = False,
) -> int:
    """Start the local Prefect and MLflow servers."""
    start_workers = find("workers", "process") if worker else None

    def start() -> list[ServiceStatus]:
        return services.up() + (start_workers(pool, gpus) if start_workers else [])

    with print_waits():
        running = start()
    code = show_services(running, as_json=json)
    if restart:
        services.keep_running(start)
    return code


def down(*, json: Json = False) -> int:
    """Stop the servers and workers that pairmill started."""
    with print_waits():
        stopped = services.down()
    return show_services(stopped, as_json=json)


def status(
    *,
    show_login: Annotated[
        bool, Parameter(negative="", help="Print only the login that the pages of the Prefect server require.")
    ] = False,
    json: Json = False,
) -> int:
    """List the servers, their states and URLs, and the flow runs that are late."""
    if not show_login:
        return show_services(services.status(), load("workers").get("late", list)(), as_json=json)
    login = services.show_login()
    print_json({"prefect": login}) if json else sys.stdout.write(f"{login}\n")
    return 0


def show_services(services: Sequence[ServiceStatus], late: Sequence[str] | None = None, *, as_json: bool) -> int:
    """Print the servers, their states and URLs, the home that they belong to, and the late flow runs if they are known."""
    if as_json:
        found = {} if late is None else {"late_runs": late}
        print_json([asdict(service) | (found if service.name == "prefect" else {}) for service in services])
        return 0
    table = new_table("Servers", "name", "state", "URL", "pid")
    for service in services:
        table.add_row(service.name, service.state, first_page(service) or service.url, str(service.pid or ""))
    out = console()
    out.print(table)
    out.write(f"Home: {home()}")
    for service in services:
        if service.login_file and service.state == "running":
            once = f"To see Prefect's pages, open {service.ui_url} and log in once with what is in {service.login_file}"
            out.message(f"{once} (`pairmill status --show-login` prints it).")
    for line in late or ():
        out.message(line)
    return 0
