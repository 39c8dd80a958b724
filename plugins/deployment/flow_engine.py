"""`python -m plugins.deployment.flow_engine`: Prefect's engine, for a flow run of pairmill.

Prefect puts the folder of a deployment first on the import path before it loads a flow. A user's own `tasks` or `flows`
there would be imported in place of ours, so ours are imported before.
"""

import importlib
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
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
