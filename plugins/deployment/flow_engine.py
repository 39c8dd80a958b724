"""`python -m plugins.deployment.flow_engine`: Prefect's engine, for a flow run of pairmill.

Prefect puts the folder of a deployment first on the import path before it loads a flow. A user's own `tasks` or `flows`
there would be imported in place of ours, so ours are imported before. One process at a time works on a flow run, as
one_process has it.
"""

import importlib
import os
import runpy
from contextlib import suppress

PACKAGES = ("flows", "tasks", "training", "dataops", "infra", "plugins")
"""Our top-level packages. Their names are short, as in any Prefect project, so a user's folder may have them too.

`pairmill.launcher` has the same names, which a test compares: an import in either direction would be a circle.
"""

if __name__ == "__main__":
    for name in PACKAGES:
        with suppress(ModuleNotFoundError):  # plugins may be left out
            importlib.import_module(name)
    from plugins.deployment import one_process

    flow_run = os.environ["PREFECT__FLOW_RUN_ID"]
    with one_process.hold(f"flow-run-{flow_run}", flow_run, lambda _: True):  # an earlier attempt is given up
        one_process.guard_engine()
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
