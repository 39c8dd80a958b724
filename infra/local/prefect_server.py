"""Prefect's server with a policy for its pages: `python -m infra.local.prefect_server OPTIONS`.

The options are those of `prefect server start`, but for --background and --workers. The policy
(infra/local/page_policy.py) keeps its pages from sending requests to other servers.
"""

import gc
import sys
from typing import Any

from infra.local.databases import prepare_database
from infra.local.page_policy import OwnServerOnly


def add_policy(application: Any) -> Any:
    """Add the policy to an application, once: Prefect's services ask for the running one, which takes no more of them."""
    if all(middleware.cls is not OwnServerOnly for middleware in application.user_middleware):
        application.add_middleware(OwnServerOnly)
    return application


def main() -> None:
    """Run `prefect server start`, whose application gets the policy as its outermost middleware."""
    gc.disable()  # until all is imported: it takes an eighth of the CPU time of a start
    from prefect.cli import app
    from prefect.server.api import server

    create = server.create_app
    server.create_app = lambda *given, **options: add_policy(create(*given, **options))
    gc.enable()
    prepare_database("prefect", lambda: None)  # which it migrates when it starts
    sys.argv[1:1] = ["server", "start"]
    app()


if __name__ == "__main__":
    main()
