"""MLflow's server for its own pages only: `python -m infra.local.mlflow_server OPTIONS`, those of `mlflow server`.

MLflow refuses pages of other sites, but lets pages of all other servers of this machine (http://localhost:PORT) read and
write. Here a request with an `Origin` must come from the host and port that it is for.

Its own pages get a policy that keeps them from sending requests to other servers (infra/local/page_policy.py).
"""

import sys
from typing import Any

from infra.local.page_policy import OwnServerOnly

REFUSAL = b"Cross-origin request blocked"


class OwnPagesOnly:
    """ASGI application that refuses requests of pages of other origins, and passes all others to another application."""

    def __init__(self, application: Any):
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        # MLflow checks the host itself, so that a page cannot choose it by rebinding its name.
        if scope["type"] != "http" or origin is None or origin == b"http://" + headers.get(b"host", b""):
            await self._application(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": REFUSAL})


def create_app() -> OwnServerOnly:
    """Return MLflow's application behind the check and with the policy of its pages; uvicorn calls it."""
    from mlflow.server.fastapi_app import app

    return OwnServerOnly(OwnPagesOnly(app))


def main() -> None:
    """Run `mlflow server`, whose uvicorn serves `create_app()`."""
    from mlflow import cli, server

    build = server._build_uvicorn_command  # plugins (--app-name) must be installed distributions

    def build_ours(*arguments: Any, **options: Any) -> list[str]:
        *command, application = build(*arguments, **options)
        if application != "mlflow.server.fastapi_app:app":
            raise SystemExit(
                f"this version of MLflow serves {application}, which infra/local/mlflow_server.py does not support"
            )
        return [*command, "--factory", "infra.local.mlflow_server:create_app"]

    server._build_uvicorn_command = build_ours
    cli.cli(["server", *sys.argv[1:]])


if __name__ == "__main__":
    main()
