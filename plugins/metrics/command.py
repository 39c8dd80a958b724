"""`pairmill metrics`: start the endpoint, or serve it in this process."""

import os
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from flows.commands.options import Json
from flows.commands.output import console, print_json, print_waits
from infra.local import services
from plugins.metrics import figures

SERVERS = (*services.CLIENT_VARIABLE.values(), "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")
"""Variables of shared servers and their logins, which the endpoint asks."""
PORT = 9464
"""Port that the Prometheus project has for exporters of this kind."""


def metrics(
    *,
    host: Annotated[
        str | None,
        Parameter(
            help="Serve here on this address until Ctrl-C, for a Prometheus of another machine. It has no login."
        ),
    ] = None,
    port: Annotated[
        int, Parameter(help="Port; another one if it is taken, without --host.", validator=Number(gte=1, lte=65535))
    ] = PORT,
    json: Json = False,
) -> int:
    """Start an endpoint for Prometheus on 127.0.0.1, with figures of this project's runs, servers, queue and GPUs."""
    services.make_home()
    figures.folder().mkdir(exist_ok=True, mode=0o700)
    if host is not None:
        from plugins.metrics.endpoint import main

        main(["--host", host, "--port", str(port)], lambda: console().write(f"http://{host}:{port}/metrics"))
        return 0
    command = ["python", "-m", "plugins.metrics.endpoint", "--port", "{port}"]
    environment = {name: os.environ[name] for name in SERVERS if name in os.environ}
    with print_waits():
        # The library answers this path without a collection.
        service = services.ensure_service(
            "metrics", command, "/favicon.ico", environment | {"PAIRMILL_HOME": str(services.home())}, port
        )
    url = f"{service.url}/metrics"
    print_json({"url": url, "folder": str(figures.folder())}) if json else console().write(url)
    return 0
