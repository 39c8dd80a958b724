"""MLflow's server for its own pages only: `python -m infra.local.mlflow_server OPTIONS`.

The options are those of `mlflow server`. What MLflow reads when it is imported must be in the
environment instead: allowed hosts and origins, and the prefix of paths.

MLflow refuses pages of other sites, but lets pages of all other servers of this machine
(http://localhost:PORT) read and write. Here a request with an `Origin` must come from the host and
port that it is for.

Its own pages get a policy that keeps them from sending requests to other servers
(infra/local/page_policy.py). The first page is the list of experiments.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from infra.local.databases import prepare_database
from infra.local.page_policy import OwnServerOnly
from tasks.tracking.pages import EXPERIMENTS

REFUSAL = b"Cross-origin request blocked"
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
"""Path of MLflow's assistant, which runs shell commands and coding agents on this machine for local clients."""
CHOICES = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.home.getting-started.collapsed_v1": True,
    "mlflow.settings.telemetry.enabled_v1": False,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
}
"""What MLflow's pages keep in the browser, with the values that they get where a browser has none (MLflow 3.17).

By MLflow's own values they open a home page for generative AI with a panel for the assistant, and
announce telemetry, which is off here.
"""
START = """<script>
for (const [name, value] of Object.entries(%s))
  if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value))
if (!location.hash.slice(2)) location.replace(%s)
</script><style>[data-assistant-ui] { display: none !important }</style>"""
"""What is added before the scripts of MLflow's page."""


class OwnPagesOnly:
    """ASGI application before another one: it refuses requests of pages of other origins, and has no assistant."""

    def __init__(self, application: Any):
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        # MLflow checks the host itself, so that a page cannot choose it by rebinding its name.
        if scope["type"] == "http" and origin is not None and origin != b"http://" + headers.get(b"host", b""):
            await _answer(send, 403, REFUSAL)
        elif ASSISTANT in scope.get("path", ""):
            await _answer(send, 404, b"The assistant is switched off")
        else:
            await self._application(scope, receive, send)


async def _answer(send: Any, status: int, text: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


def create_app() -> OwnServerOnly:
    """Return MLflow's application behind the check and with the policy of its pages; uvicorn calls it."""
    from mlflow.server import app as flask
    from mlflow.server.fastapi_app import app

    page = render_first_page(Path(str(flask.static_folder), "index.html").read_text("utf-8"))
    flask.view_functions["serve"] = lambda: page
    return OwnServerOnly(OwnPagesOnly(app))


def render_first_page(page: str) -> str:
    """Return MLflow's page, which opens the list of experiments where its URL names no other, with the CHOICES."""
    return page.replace("<head>", f"<head>{START % (json.dumps(CHOICES), json.dumps(EXPERIMENTS))}", 1)


def main() -> None:
    """Run `mlflow server`, whose uvicorn serves `create_app()` in this process.

    MLflow would start uvicorn in a second process, which imports MLflow again: 3 s of CPU time and 280 MB.
    """
    gc.disable()  # until all is imported: it takes an eighth of the CPU time of a start
    import uvicorn  # before MLflow, which checks the hosts of requests only where a server is imported
    from mlflow import cli, server

    def serve(command: list[str], extra_env: dict[str, str], **_: Any) -> None:
        *options, application = command[command.index("uvicorn") + 1 :]
        if application != "mlflow.server.fastapi_app:app":
            raise SystemExit(
                f"this version of MLflow serves {application}, which infra/local/mlflow_server.py does not support"
            )
        os.environ.update(extra_env)
        gc.enable()
        # A plugin of MLflow (--app-name) would have to be an installed distribution.
        uvicorn.main([*options, "--factory", "infra.local.mlflow_server:create_app"])

    prepare_database("mlflow", lambda: cli.cli(["db", "upgrade", "sqlite:///mlflow.db"], standalone_mode=False))
    server._exec_cmd = serve  # pyright: ignore[reportPrivateImportUsage]
    cli.cli(["server", *sys.argv[1:]])


if __name__ == "__main__":
    main()
